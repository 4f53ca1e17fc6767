//! What the tests of xorfs share: nothing here is part of the product.

pub mod conformance;
pub mod tidy;
