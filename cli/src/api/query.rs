//! How paths, names and numbers stand in a request's URL.
//!
//! Paths are bytes, so they are percent-encoded byte by byte and never pass through a string.
//! Pure: nothing here touches a socket or the filesystem.

use std::collections::BTreeMap;
use std::fmt::Write;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, percent_encode};
use xorfs_store::Timestamp;

use crate::api::server::ApiError;
use crate::api::types::Attributes;
use crate::exit::Failure;

/// The parameters of a request.
#[derive(Debug, Default, Clone)]
pub(crate) struct Query(BTreeMap<String, Vec<u8>>);

impl Query {
    /// No parameters.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// With a parameter of any bytes.
    pub(crate) fn with(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.insert(key.to_owned(), value.as_ref().to_vec());
        self
    }

    /// With the attributes of an entry.
    pub(crate) fn with_attributes(self, attributes: &Attributes) -> Self {
        self.with("mode", attributes.mode.to_string())
            .with("uid", attributes.uid.to_string())
            .with("gid", attributes.gid.to_string())
            .with("mtime", attributes.mtime.seconds.to_string())
            .with("mtime_nanos", attributes.mtime.nanos.to_string())
    }

    /// The URL's part after `?`.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.0 {
            let separator = if text.is_empty() { "" } else { "&" };
            write!(text, "{separator}{key}={}", percent_encode(value, NON_ALPHANUMERIC))
                .expect("a string takes any text");
        }
        text
    }

    /// Reads the part after `?`; the last of several values of one key counts.
    pub(crate) fn decode(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key.to_owned(), percent_decode_str(value).collect())
        });
        Self(pairs.collect())
    }

    /// A parameter as bytes, if it is there.
    pub(crate) fn bytes(&self, key: &str) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    /// A parameter that must be there.
    pub(crate) fn required(&self, key: &str) -> Result<&[u8], Failure> {
        self.bytes(key).ok_or_else(|| Failure::usage(format!("the parameter {key:?} is missing")))
    }

    /// A parameter as text, if it is there.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, Failure> {
        self.bytes(key)
            .map(std::str::from_utf8)
            .transpose()
            .map_err(|_| Failure::usage(format!("the parameter {key:?} is not UTF-8")))
    }

    /// A parameter as a number, if it is there.
    pub(crate) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Failure> {
        self.text(key)?
            .map(str::parse)
            .transpose()
            .map_err(|_| Failure::usage(format!("the parameter {key:?} is no number in range")))
    }

    /// Whether a parameter says true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.bytes(key) == Some(b"true")
    }

    /// The attributes of an entry; what is absent is 0.
    pub(crate) fn attributes(&self) -> Result<Attributes, Failure> {
        let mode = self.number::<u32>("mode")?.unwrap_or(0);
        let nanos = self.number("mtime_nanos")?.unwrap_or(0);
        if mode > 0o7777 || nanos >= 1_000_000_000 {
            return Err(Failure::usage("a mode or a time is out of range"));
        }
        Ok(Attributes {
            mode,
            uid: self.number("uid")?.unwrap_or(0),
            gid: self.number("gid")?.unwrap_or(0),
            mtime: Timestamp { seconds: self.number("mtime")?.unwrap_or(0), nanos },
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Ok(Self::decode(parts.uri.query().unwrap_or("")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_survives_a_url() {
        let path = b"main/a b&c=d/100%/\xff\x01+";
        let attributes = Attributes {
            mode: 0o4755,
            uid: 1,
            gid: 2,
            mtime: Timestamp { seconds: -5, nanos: 999_999_999 },
        };
        let sent = Query::new().with("path", path).with_attributes(&attributes).encode();
        let query = Query::decode(&sent);
        assert_eq!(query.required("path").unwrap(), path);
        assert_eq!(query.attributes().unwrap(), attributes);
        assert!(query.required("other").is_err());
    }

    #[test]
    fn numbers_are_checked() {
        assert!(Query::decode("mode=99999").attributes().is_err());
        assert!(Query::decode("mtime_nanos=1000000000").attributes().is_err());
        assert!(Query::decode("offset=-1").number::<u64>("offset").is_err());
    }
}
