//! What the tests of xorfs share: nothing here is part of the product.

pub mod campaign;
pub mod child;
pub mod cluster;
pub mod conformance;
pub mod effort;
pub mod files;
pub mod tidy;
