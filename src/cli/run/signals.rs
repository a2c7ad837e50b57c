//! The signals that are the affair of a command that was started for somebody.

use std::io::IsTerminal;
use std::process::ExitStatus;
use std::task::{Context, Poll, Waker};

use tokio::process::Child;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that are the command's affair.
pub(in crate::cli) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    quit: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// From here on none of them ends this process.
    pub(in crate::cli) fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for a signal that ends everything while no command is there to be told; its number.
    pub(in crate::cli) async fn before(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => 2,
            _ = self.quit.recv() => 3,
            _ = self.terminate.recv() => 15,
            _ = self.hangup.recv() => 1,
        }
    }

    /// Waits for the command, passing signals on to it.
    pub(super) async fn wait(&mut self, child: &mut Child) -> std::io::Result<ExitStatus> {
        // A terminal sends Ctrl-C and Ctrl-\ to the command as well; twice would mean "at once" to many programs.
        let terminal = std::io::stdin().is_terminal();
        loop {
            let (number, from_terminal) = tokio::select! {
                status = child.wait() => {
                    self.forget();
                    return status;
                }
                _ = self.interrupt.recv() => (rustix::process::Signal::INT, terminal),
                _ = self.quit.recv() => (rustix::process::Signal::QUIT, terminal),
                _ = self.terminate.recv() => (rustix::process::Signal::TERM, false),
                _ = self.hangup.recv() => (rustix::process::Signal::HUP, false),
                _ = self.user1.recv() => (rustix::process::Signal::USR1, false),
                _ = self.user2.recv() => (rustix::process::Signal::USR2, false),
            };
            let pid = child.id().and_then(|id| rustix::process::Pid::from_raw(id as i32));
            if let (Some(pid), false) = (pid, from_terminal) {
                // It may have ended just now; then `wait` says so next.
                let _ = rustix::process::kill_process(pid, number);
            }
        }
    }

    /// What came while the command ended was for the command: it must not cut short what is done after it.
    fn forget(&mut self) {
        let mut now = Context::from_waker(Waker::noop());
        for signal in [&mut self.interrupt, &mut self.terminate, &mut self.hangup, &mut self.quit] {
            while let Poll::Ready(Some(())) = signal.poll_recv(&mut now) {}
        }
    }
}
