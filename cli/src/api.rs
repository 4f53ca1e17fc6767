//! The local API: HTTP over a Unix socket, between the commands and the node they talk to.
//!
//! `server` is the node's side, `client` the commands'; `types` is what travels, `query` how
//! paths and numbers stand in a URL, `wire` the items of an import. Every command goes through here, whether a daemon runs or the
//! command runs a node of its own, so there is one code path. The socket has mode 0600: whoever
//! can open it may do everything. Callers hand over data, never paths of their own files, so the
//! node opens nothing its caller could not. `docs/api.md` describes the requests.

mod body;
pub(crate) mod client;
mod content;
mod import;
pub(crate) mod incoming;
pub(crate) mod job;
mod keyring;
pub(crate) mod query;
pub(crate) mod server;
mod space;
pub(crate) mod tree;
pub(crate) mod types;
pub(crate) mod wire;
