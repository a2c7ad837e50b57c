//! After `101 Switching Protocols`: bytes pass both ways until one side ends.

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;

use super::record::Record;
use crate::base::Body;

/// Buffer for each direction of a switched connection.
const BUFFER: usize = 16 * 1024;

/// The caller's half, to be taken before the request is sent on.
pub(super) fn of_request(request: &mut Request<Incoming>) -> OnUpgrade {
    hyper::upgrade::on(request)
}

/// Joins both halves in the background; the record is logged when the conversation ends.
pub(super) fn join(tasks: &TaskTracker, caller: OnUpgrade, response: &mut Response<Body>, record: Record) {
    let upstream = hyper::upgrade::on(response);
    tasks.spawn(async move {
        // The whole record moves in here, so that it is dropped, and logged, when the conversation is over.
        let mut record = record;
        let (Ok(caller), Ok(upstream)) = (caller.await, upstream.await) else {
            return;
        };
        let (mut caller, mut upstream) = (TokioIo::new(caller), TokioIo::new(upstream));
        let lease = record.caller.lease.as_ref().map(|lease| lease.ended());
        let over = async {
            match lease {
                Some(ended) => ended.await,
                None => std::future::pending().await,
            }
        };
        let copy = tokio::io::copy_bidirectional_with_sizes(&mut caller, &mut upstream, BUFFER, BUFFER);
        tokio::select! {
            copied = copy => record.conversation_ended(copied.map_or(0, |(_, bytes)| bytes)),
            // What a run began ends with it.
            () = over => {}
        }
    });
}
