//! Requests about space and integrity: pins, garbage collection and checks.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use xorfs_store::Link;

use crate::api::job;
use crate::api::query::Query;
use crate::api::server::{ApiError, blocking};
use crate::api::types::{Collected, PinReply, PinRequest, PinRow};
use crate::daemon::Daemon;
use crate::daemon::pins::Pinned;
use crate::exit::Failure;

pub(crate) async fn pins(State(daemon): State<Arc<Daemon>>) -> Result<Json<Vec<PinRow>>, ApiError> {
    Ok(Json(blocking(move || daemon.pins()).await?))
}

/// Pins, and answers in lines while what is not here is fetched.
pub(crate) async fn pin(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<PinRequest>,
) -> Result<Response, ApiError> {
    let (what, leaving) = (pinned(&request)?, daemon.leaving());
    let work =
        move |reporter: &mut job::Reporter| daemon.pin(&what, |progress| reporter.report(progress));
    Ok(job::run(leaving, work))
}

pub(crate) async fn unpin(
    State(daemon): State<Arc<Daemon>>,
    Json(request): Json<PinRequest>,
) -> Result<Json<PinReply>, ApiError> {
    let what = pinned(&request)?;
    Ok(Json(blocking(move || daemon.unpin(&what)).await?))
}

pub(crate) async fn collect(
    State(daemon): State<Arc<Daemon>>,
    query: Query,
) -> Result<Json<Collected>, ApiError> {
    let dry_run = query.flag("dry_run");
    Ok(Json(blocking(move || daemon.collect(dry_run)).await?))
}

/// Checks everything, and answers in lines.
pub(crate) async fn check(State(daemon): State<Arc<Daemon>>, query: Query) -> Response {
    let (repair, leaving) = (query.flag("repair"), daemon.leaving());
    let work = move |reporter: &mut job::Reporter| {
        daemon.check(repair, |progress| reporter.report(progress))
    };
    job::run(leaving, work)
}

fn pinned(request: &PinRequest) -> anyhow::Result<Pinned> {
    match (&request.volume, &request.link) {
        (Some(name), None) => Ok(Pinned::Volume(name.clone())),
        (None, Some(link)) => match link.parse()? {
            Link::Tree(tree) => Ok(Pinned::Tree(tree)),
            Link::Read(..) | Link::Write(_) => {
                let text = "a live link is pinned as a volume: `xorfs volume follow` it first";
                Err(Failure::usage(text).into())
            }
        },
        _ => Err(Failure::usage("a pin is of a volume or of a link").into()),
    }
}
