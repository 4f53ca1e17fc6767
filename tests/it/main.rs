//! Integration tests, in one binary: what needs more than one module, process or machine.

mod conformance;
mod tidy;
