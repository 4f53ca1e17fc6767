//! Requests about the keyring, and what every other request meets while it is locked.
//!
//! Invariant: while the keyring is locked only requests that need no key get past `refuse_locked`;
//! what it does not know is refused, so that a new request cannot be forgotten.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::api::query::Query;
use crate::api::server::{ApiError, blocking};
use crate::api::tree::path_of;
use crate::api::types::{PassphraseRequest, UnlockRequest};
use crate::daemon::Daemon;
use crate::daemon::keys::locked;

/// Requests that need no key.
const KEYLESS: [&str; 7] = [
    "/v1/status",
    "/v1/peers",
    "/v1/mounts",
    "/v1/unlock",
    "/v1/lock",
    "/v1/passphrase",
    // There is nothing to seal, and what was sealed before may still have to be replicated.
    "/v1/seal",
];

/// Refuses what needs a key while the keyring is locked. What a link names needs none: the caller
/// holds it.
pub(crate) async fn refuse_locked(
    State(daemon): State<Arc<Daemon>>,
    request: Request,
    next: Next,
) -> Response {
    if daemon.is_locked() && !is_keyless(&daemon, &request) {
        return ApiError::from(locked()).into_response();
    }
    next.run(request).await
}

fn is_keyless(daemon: &Daemon, request: &Request) -> bool {
    let uri = request.uri();
    KEYLESS.contains(&uri.path()) || {
        let query = Query::decode(uri.query().unwrap_or(""));
        path_of(daemon, &query).is_ok_and(|path| path.starts_with(b"link/"))
    }
}

pub(crate) async fn unlock(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<UnlockRequest>,
) -> Result<Json<()>, ApiError> {
    blocking(move || daemon.unlock(&request.passphrase.0)).await?;
    Ok(Json(()))
}

pub(crate) async fn lock(State(daemon): State<Arc<Daemon>>) -> Result<Json<()>, ApiError> {
    blocking(move || daemon.lock_keys()).await?;
    Ok(Json(()))
}

pub(crate) async fn set_passphrase(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<PassphraseRequest>,
) -> Result<Json<()>, ApiError> {
    let set = move || {
        let current = request.current.as_ref().map(|typed| &typed.0);
        daemon.set_passphrase(current, request.new.as_ref().map(|typed| &typed.0))
    };
    blocking(set).await?;
    Ok(Json(()))
}
