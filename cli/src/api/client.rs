//! The commands' side of the local API: one method per request.
//!
//! Errors come back with the kind that the node gave them. There are no retries: the socket is
//! on this machine, and what fails on it fails for a reason.

use std::sync::Arc;

use anyhow::Context;
use axum::body::Bytes;
use axum::http::Method;
use reqwest::{Body, RequestBuilder, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::api::job;
use crate::api::query::Query;
use crate::api::types::{
    Attributes, CheckReply, Collected, Copies, EntryRow, ErrorBody, JobProgress, LinkReply,
    MountRequest, Name, PassphraseRequest, PeerRow, PinReply, PinRequest, PinRow, Runs, Status,
    UnlockRequest, UnmountRequest, VolumeRequest, VolumeRow,
};
use crate::api::wire::{ImportReply, Stamp};
use crate::exit::Failure;
use crate::home::SocketPath;

/// What a request that answers nothing is called with.
const NOTHING: Option<&()> = None;

/// A connection to a node.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    /// Kept because its path may hang on a descriptor.
    _socket: Arc<SocketPath>,
}

impl Client {
    /// Connects, if a node answers there.
    pub(crate) async fn connect(socket: SocketPath) -> anyhow::Result<Option<Self>> {
        if tokio::net::UnixStream::connect(socket.as_path()).await.is_err() {
            return Ok(None);
        }
        let http = reqwest::Client::builder()
            .unix_socket(socket.as_path())
            .no_proxy()
            .build()
            .context("could not prepare the local API")?;
        Ok(Some(Self { http, _socket: Arc::new(socket) }))
    }

    /// What the node is doing.
    pub(crate) async fn status(&self) -> anyhow::Result<Status> {
        self.ask(Method::GET, "status", &Query::new(), NOTHING).await
    }

    /// The other nodes that it knows.
    pub(crate) async fn peers(&self) -> anyhow::Result<Vec<PeerRow>> {
        self.ask(Method::GET, "peers", &Query::new(), NOTHING).await
    }

    /// The volumes.
    pub(crate) async fn volumes(&self) -> anyhow::Result<Vec<VolumeRow>> {
        self.ask(Method::GET, "volumes", &Query::new(), NOTHING).await
    }

    /// Makes a volume, or with a link takes one up.
    pub(crate) async fn add_volume(&self, request: &VolumeRequest) -> anyhow::Result<VolumeRow> {
        self.ask(Method::POST, "volumes", &Query::new(), Some(request)).await
    }

    /// Forgets a volume.
    pub(crate) async fn forget_volume(&self, name: &str, force: bool) -> anyhow::Result<()> {
        let query = Query::new().with("force", force.to_string());
        self.ask(Method::DELETE, &volume_path(name), &query, NOTHING).await
    }

    /// A live link to a volume.
    pub(crate) async fn share_volume(&self, name: &str, write: bool) -> anyhow::Result<String> {
        let query = Query::new().with("write", write.to_string());
        let path = volume_path(name) + "/link";
        let reply: LinkReply = self.ask(Method::GET, &path, &query, NOTHING).await?;
        Ok(reply.link)
    }

    /// What is pinned.
    pub(crate) async fn pins(&self) -> anyhow::Result<Vec<PinRow>> {
        self.ask(Method::GET, "pins", &Query::new(), NOTHING).await
    }

    /// Pins, telling how far it is.
    pub(crate) async fn pin(
        &self,
        request: &PinRequest,
        on_progress: impl FnMut(JobProgress),
    ) -> anyhow::Result<PinReply> {
        let sent = self.request(Method::POST, "pins", &Query::new()).json(request);
        job::follow(self.send(sent).await?, on_progress).await
    }

    /// Unpins.
    pub(crate) async fn unpin(&self, request: &PinRequest) -> anyhow::Result<PinReply> {
        self.ask(Method::DELETE, "pins", &Query::new(), Some(request)).await
    }

    /// Collects garbage, or with `dry_run` says what would go.
    pub(crate) async fn collect(&self, dry_run: bool) -> anyhow::Result<Collected> {
        let query = Query::new().with("dry_run", dry_run.to_string());
        self.ask(Method::POST, "gc", &query, NOTHING).await
    }

    /// Checks everything, telling how far it is.
    pub(crate) async fn check(
        &self,
        repair: bool,
        on_progress: impl FnMut(JobProgress),
    ) -> anyhow::Result<CheckReply> {
        let query = Query::new().with("repair", repair.to_string());
        let response = self.send(self.request(Method::POST, "check", &query)).await?;
        job::follow(response, on_progress).await
    }

    /// Opens a locked keyring.
    pub(crate) async fn unlock(&self, request: &UnlockRequest) -> anyhow::Result<()> {
        self.ask(Method::POST, "unlock", &Query::new(), Some(request)).await
    }

    /// Makes the node forget its keys.
    pub(crate) async fn lock(&self) -> anyhow::Result<()> {
        self.ask(Method::POST, "lock", &Query::new(), NOTHING).await
    }

    /// Sets another passphrase, or takes it off.
    pub(crate) async fn set_passphrase(&self, request: &PassphraseRequest) -> anyhow::Result<()> {
        self.ask(Method::PUT, "passphrase", &Query::new(), Some(request)).await
    }

    /// Mounts.
    pub(crate) async fn mount(&self, request: &MountRequest) -> anyhow::Result<()> {
        self.ask(Method::POST, "mounts", &Query::new(), Some(request)).await
    }

    /// Unmounts.
    pub(crate) async fn unmount(&self, dir: Name) -> anyhow::Result<()> {
        self.ask(Method::DELETE, "mounts", &Query::new(), Some(&UnmountRequest { dir })).await
    }

    /// One entry.
    pub(crate) async fn stat(&self, path: &[u8]) -> anyhow::Result<EntryRow> {
        self.stat_of(&at(path)).await
    }

    /// The entry that a request's path names.
    pub(crate) async fn stat_of(&self, query: &Query) -> anyhow::Result<EntryRow> {
        self.ask(Method::GET, "stat", query, NOTHING).await
    }

    /// The entries of a directory, by name.
    pub(crate) async fn list(&self, path: &[u8]) -> anyhow::Result<Vec<EntryRow>> {
        self.ask(Method::GET, "list", &at(path), NOTHING).await
    }

    /// One entry, with its extended attributes.
    pub(crate) async fn stat_whole(&self, path: &[u8]) -> anyhow::Result<EntryRow> {
        self.stat_of(&at(path).with("xattrs", "true")).await
    }

    /// The entries of a directory, with their extended attributes.
    pub(crate) async fn list_whole(&self, path: &[u8]) -> anyhow::Result<Vec<EntryRow>> {
        self.ask(Method::GET, "list", &at(path).with("xattrs", "true"), NOTHING).await
    }

    /// Where a file has bytes, from `offset` on.
    pub(crate) async fn runs(&self, path: &[u8], offset: u64) -> anyhow::Result<Runs> {
        let query = at(path).with("offset", offset.to_string());
        self.ask(Method::GET, "runs", &query, NOTHING).await
    }

    /// Up to `length` bytes of a file at `offset`.
    pub(crate) async fn read(
        &self,
        path: &[u8],
        offset: u64,
        length: usize,
    ) -> anyhow::Result<Bytes> {
        let query = at(path).with("offset", offset.to_string()).with("length", length.to_string());
        let response = self.send(self.request(Method::GET, "file", &query)).await?;
        response.bytes().await.context("the node broke off")
    }

    /// Hands over the items of an import.
    pub(crate) async fn import(&self, items: impl Into<Body>) -> anyhow::Result<ImportReply> {
        let request = self.request(Method::POST, "import", &Query::new()).body(items);
        decode(self.send(request).await?).await
    }

    /// For each path the inode that a put from a source of this stamp left there, if nothing has
    /// changed it since; 0 else.
    pub(crate) async fn unchanged(&self, asked: &[(Vec<u8>, Stamp)]) -> anyhow::Result<Vec<u64>> {
        let asked = postcard::to_stdvec(asked).context("a list of paths always encodes")?;
        let request = self.request(Method::POST, "unchanged", &Query::new()).body(asked);
        let answer = self.send(request).await?.bytes().await.context("the node broke off")?;
        postcard::from_bytes(&answer).context("the node's answer makes no sense")
    }

    /// Makes a directory and those above it.
    pub(crate) async fn make_directory(
        &self,
        path: &[u8],
        attributes: &Attributes,
    ) -> anyhow::Result<EntryRow> {
        let query = at(path).with_attributes(attributes);
        self.ask(Method::PUT, "directory", &query, NOTHING).await
    }

    /// The link of what `query` names; `live` asks for its volume's.
    pub(crate) async fn link(&self, query: Query, live: bool) -> anyhow::Result<String> {
        let query = query.with("live", live.to_string());
        let reply: LinkReply = self.ask(Method::GET, "link", &query, NOTHING).await?;
        Ok(reply.link)
    }

    /// How many copies there are of what `query` names.
    pub(crate) async fn copies(&self, query: &Query) -> anyhow::Result<Copies> {
        self.ask(Method::GET, "copies", query, NOTHING).await
    }

    /// Seals one volume, or all of them.
    pub(crate) async fn seal(&self, volume: Option<&str>) -> anyhow::Result<()> {
        let query = Query::new();
        let query = match volume {
            Some(volume) => query.with("volume", volume),
            None => query,
        };
        self.ask(Method::POST, "seal", &query, NOTHING).await
    }

    async fn ask<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &Query,
        body: Option<&B>,
    ) -> anyhow::Result<T> {
        let mut request = self.request(method, path, query);
        if let Some(body) = body {
            request = request.json(body);
        }
        decode(self.send(request).await?).await
    }

    fn request(&self, method: Method, path: &str, query: &Query) -> RequestBuilder {
        // The host is never looked up: everything goes to the socket.
        self.http.request(method, format!("http://xorfs/v1/{path}?{}", query.encode()))
    }

    /// Sends, and turns an error's answer into an error.
    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.context("the node does not answer")?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let error: ErrorBody = response
            .json()
            .await
            .with_context(|| format!("the node answered {status} without saying why"))?;
        Err(Failure::new(error.kind, error.message).into())
    }
}

/// A request about a path of the view.
pub(crate) fn at(path: &[u8]) -> Query {
    Query::new().with("path", path)
}

fn volume_path(name: &str) -> String {
    let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
    format!("volumes/{name}")
}

async fn decode<T: DeserializeOwned>(response: Response) -> anyhow::Result<T> {
    response.json().await.context("the node's answer makes no sense")
}
