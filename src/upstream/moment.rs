//! When the connection was made that a request had to wait for.
//!
//! A request and the connection that is made for it meet in a client that tells neither of the other. Both run in one task,
//! so the connector leaves the moment there; what is dialled on when the request found another connection leaves nothing.

use std::cell::Cell;
use std::time::Instant;

tokio::task_local! {
    static MADE: Cell<Option<Instant>>;
}

/// Runs what sends a request, and says when the last connection was open that was made for it; nothing when none was made.
pub async fn noting_connection<F: Future>(sending: F) -> (F::Output, Option<Instant>) {
    MADE.scope(Cell::new(None), async {
        let output = sending.await;
        (output, MADE.with(Cell::get))
    })
    .await
}

/// A connection is open.
pub(super) fn made() {
    // Nobody asks where no request waits for it.
    let _ = MADE.try_with(|made| made.set(Some(tokio::time::Instant::now().into_std())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_is_noted_for_the_request_that_waits_for_it_and_for_no_other() {
        let (answer, connected) = noting_connection(async {
            made();
            "answer"
        })
        .await;
        assert_eq!((answer, connected.is_some()), ("answer", true));
        made();
        let elsewhere = noting_connection(async { tokio::spawn(async { made() }).await.is_ok() }).await;
        assert_eq!(elsewhere, (true, None), "it was dialled on in a task of its own");
    }
}
