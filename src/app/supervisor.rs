//! What the process that started us is told (`NOTIFY_SOCKET`, systemd's protocol): ready, reloading, ending, alive.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells it something, if it wants to be told.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the supervisor cannot be told");
    }
}

/// The listeners are up. Also the end of a reload.
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload begins.
pub(super) fn reloading() {
    // Without a time only `Type=notify-reload` does not believe it.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// The drain begins.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that we are alive as often as is asked for (`WatchdogSec=`), for ever.
pub async fn say_alive() {
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| *limit > Duration::ZERO) else {
        return std::future::pending().await;
    };
    let mut beat = tokio::time::interval(limit / 2);
    loop {
        beat.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}
