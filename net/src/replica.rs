//! Where copies live and how they get there. Pure decisions: whoever owns these machines sends
//! the requests and tells the answers.
//!
//! Publishing a new block and repairing an old one are the same work: offer it to its close
//! group, send it to those who want it, count who holds it. So there is one machine for both.

pub(crate) mod digest;
pub(crate) mod head;
pub(crate) mod placement;
pub(crate) mod proof;
pub(crate) mod spread;
