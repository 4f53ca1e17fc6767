//! The node's side of the local API: routes, and how errors become answers.
//!
//! Handlers are short: they take a request apart and hand it to the view or the daemon on a
//! blocking thread. File content is in `content`, everything else about names in `tree`.
//! Invariant: the socket is made with mode 0600 before anybody can connect.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router, middleware};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use xorfs_store::Convergence;

use crate::api::query::Query;
use crate::api::types::{
    ErrorBody, LinkReply, MountRequest, PeerRow, Status, UnmountRequest, VolumeRequest, VolumeRow,
};
use crate::api::{content, import, keyring, space, tree};
use crate::daemon::Daemon;
use crate::exit::{Exit, classify};
use crate::home::SocketPath;

/// Connections that wait to be accepted. Commands are few; a burst of parallel requests fits.
const BACKLOG: i32 = 128;

/// Any error, on its way to an answer with its kind.
#[derive(Debug)]
pub(crate) struct ApiError(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for ApiError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = classify(&self.0);
        let status = match kind {
            Exit::Usage => StatusCode::BAD_REQUEST,
            Exit::NotFound => StatusCode::NOT_FOUND,
            Exit::Refused => StatusCode::CONFLICT,
            Exit::Done | Exit::Failed | Exit::Corrupt => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let message = format!("{:#}", self.0);
        // Its text may hold a link, which opens what it names.
        tracing::debug!(?kind, "request failed");
        (status, Json(ErrorBody { kind, message })).into_response()
    }
}

/// Runs what blocks where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> Result<T, ApiError> {
    Ok(tokio::task::spawn_blocking(work).await.context("a request was cut short")??)
}

/// Makes the socket. Whatever is at its path is a dead node's: the caller holds the home's lock.
pub(crate) fn bind(socket: &SocketPath) -> anyhow::Result<UnixListener> {
    let path = socket.as_path();
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let listener = listen(path)
        .with_context(|| format!("could not listen on the socket {}", path.display()))?;
    let listener = StdListener::from(listener);
    listener.set_nonblocking(true)?;
    Ok(UnixListener::from_std(listener)?)
}

/// Listens with mode 0600: the kernel gives the path the mode of the unbound socket.
fn listen(path: &std::path::Path) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Serves until `stop`, then finishes the requests that run.
pub(crate) async fn serve(
    listener: UnixListener,
    daemon: Arc<Daemon>,
    stop: CancellationToken,
) -> io::Result<()> {
    axum::serve(listener, routes(daemon)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn routes(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route("/v1/peers", get(peers))
        .route("/v1/volumes", get(volumes).post(add_volume))
        .route("/v1/volumes/{name}", delete(forget_volume))
        .route("/v1/volumes/{name}/link", get(share_volume))
        .route("/v1/pins", get(space::pins).post(space::pin).delete(space::unpin))
        .route("/v1/gc", post(space::collect))
        .route("/v1/check", post(space::check))
        .route("/v1/unlock", post(keyring::unlock))
        .route("/v1/lock", post(keyring::lock))
        .route("/v1/passphrase", put(keyring::set_passphrase))
        .route("/v1/mounts", post(mount).delete(unmount))
        .route("/v1/file", get(content::read_file).put(content::write_file))
        .route("/v1/runs", get(content::runs))
        .route("/v1/stat", get(tree::stat))
        .route("/v1/list", get(tree::list))
        .route("/v1/directory", put(tree::make_directory))
        .route("/v1/import", post(import::import))
        .route("/v1/unchanged", post(import::unchanged))
        .route("/v1/link", get(tree::link))
        .route("/v1/copies", get(tree::copies))
        .route("/v1/seal", post(tree::seal))
        .route("/v1/fsync", post(tree::fsync))
        .layer(DefaultBodyLimit::disable())
        .layer(middleware::from_fn_with_state(Arc::clone(&daemon), keyring::refuse_locked))
        .with_state(daemon)
}

async fn status(State(daemon): State<Arc<Daemon>>) -> Result<Json<Status>, ApiError> {
    Ok(Json(blocking(move || daemon.status()).await?))
}

async fn peers(State(daemon): State<Arc<Daemon>>) -> Json<Vec<PeerRow>> {
    Json(daemon.peers())
}

async fn volumes(State(daemon): State<Arc<Daemon>>) -> Json<Vec<VolumeRow>> {
    Json(daemon.volumes())
}

async fn add_volume(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<VolumeRequest>,
) -> Result<Json<VolumeRow>, ApiError> {
    let add = move || match &request.link {
        None => {
            let convergence = match request.network_convergence {
                true => Convergence::Network,
                false => Convergence::Volume,
            };
            daemon.create_volume(&request.name, convergence)
        }
        Some(link) => daemon.follow_volume(&request.name, &link.parse()?),
    };
    Ok(Json(blocking(add).await?))
}

async fn forget_volume(
    State(daemon): State<Arc<Daemon>>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Json<()>, ApiError> {
    let force = query.flag("force");
    blocking(move || daemon.forget_volume(&name, force)).await?;
    Ok(Json(()))
}

async fn share_volume(
    State(daemon): State<Arc<Daemon>>,
    Path(name): Path<String>,
    query: Query,
) -> Result<Json<LinkReply>, ApiError> {
    let link = daemon.share_volume(&name, query.flag("write"))?.to_string();
    Ok(Json(LinkReply { link }))
}

async fn mount(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<MountRequest>,
) -> Result<Json<()>, ApiError> {
    blocking(move || daemon.mount(request.dir.as_path(), request.read_only, request.allow_other))
        .await?;
    Ok(Json(()))
}

async fn unmount(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<UnmountRequest>,
) -> Result<Json<()>, ApiError> {
    blocking(move || daemon.unmount(request.dir.as_path())).await?;
    Ok(Json(()))
}
