//! Integration tests, in one binary: what needs more than one module, process or machine.

mod campaign;
mod cli;
mod cli_keyring;
mod cli_space;
mod conformance;
mod crash;
mod damage;
mod full;
mod local;
mod memory;
mod mount;
mod network;
mod privacy;
mod put;
mod rebuild;
mod space;
mod tidy;
mod volume;
