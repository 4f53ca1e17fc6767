//! The wire: what nodes say to each other, and how it is laid out in bytes.
//!
//! Participants: two nodes on one QUIC connection, each known to the other by its proven key.
//! Either opens a bidirectional stream per request; the other answers on it, once. A frame is
//! the length of a header (4 bytes, little-endian), the header (postcard), then the raw payload
//! whose length the header says: a block or a head, never anything else.
//!
//! Goals: every length is bounded before memory is taken for it; a block is copied as little as
//! possible; a node that is offered what it has costs 32 bytes. Non-goals: ordering between
//! requests, negotiation (the ALPN names the version), secrecy from the peer.
//!
//! One exchange: A has a new block of 5 bytes for B.
//!
//! ```text
//! A → B  22 00 00 00 | 04 01 <id: 32>        Offer, one id
//! B → A  04 00 00 00 | 04 00 01 01           Offered: none held, the first wanted
//! A → B  22 00 00 00 | 05 <id: 32> 05 | 5 bytes   Store, a payload of 5 bytes
//! B → A  01 00 00 00 | 05                    Stored: it matched its id
//! A → B  01 00 00 00 | 07                    Sync, after the last block of a batch
//! B → A  01 00 00 00 | 05                    Stored: all of them are on B's disk
//! ```
//!
//! Pure and free of panics: whatever bytes come in, decoding gives a message or an error.

pub(crate) mod frame;
pub(crate) mod message;

pub(crate) use frame::{PREFIX_BYTES, header_length};
pub(crate) use message::{Name, Nonce, OfferReply, Offered, RangeSum, Refusal, Request, Response};
