//! What the tests of xorfs share: nothing here is part of the product.

pub mod cluster;
pub mod conformance;
pub mod files;
pub mod tidy;
