//! Sees the configuration and the files it names change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Changes come in bursts (write, rename, chmod); one reload answers them all.
const SETTLE: Duration = Duration::from_millis(200);

/// The longest burst that one reload answers.
const LONGEST_BURST: Duration = Duration::from_secs(1);

/// Watches the folders of some files, since editors and Kubernetes replace files rather than write them.
pub(super) struct Watch {
    watcher: Option<notify::RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    events: mpsc::Receiver<()>,
}

impl Watch {
    /// Begins with no folder. Without a working watcher (no inotify left) only SIGHUP reloads, and that is logged.
    pub(super) fn new() -> Self {
        let (sender, events) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Reading the files ourselves must not look like a change of them.
            if event.is_ok_and(|event| !matches!(event.kind, notify::EventKind::Access(_))) {
                // Full means that a change is already waiting to be seen.
                let _ = sender.try_send(());
            }
        });
        let watcher =
            watcher.inspect_err(|error| tracing::warn!(%error, "files cannot be watched; use SIGHUP to reload")).ok();
        Self { watcher, folders: BTreeSet::new(), events }
    }

    /// Watches the folders of these files, and no others.
    pub(super) fn set(&mut self, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let folders: BTreeSet<PathBuf> = files.iter().map(|file| folder(file)).collect();
        for gone in self.folders.difference(&folders) {
            let _ = watcher.unwatch(gone);
        }
        for new in folders.difference(&self.folders) {
            if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                tracing::warn!(folder = %new.display(), %error, "a folder cannot be watched; use SIGHUP to reload");
            }
        }
        self.folders = folders;
    }

    /// Waits for a change, and for the end of its burst.
    pub(super) async fn changed(&mut self) {
        if self.events.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        // A folder that is never quiet must not put the reload off for ever.
        let end = Instant::now() + LONGEST_BURST;
        while Instant::now() < end
            && tokio::time::timeout(SETTLE, self.events.recv()).await.is_ok_and(|event| event.is_some())
        {}
    }
}

fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Files, and what was in them.
#[derive(Debug, Default)]
pub struct Fingerprints {
    files: Vec<PathBuf>,
    contents: Vec<u64>,
}

impl Fingerprints {
    /// Looks at some files; one that is missing counts as such.
    pub(super) fn take(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let files: Vec<PathBuf> = files.into_iter().collect();
        let contents = files.iter().map(|file| content(file)).collect();
        Self { files, contents }
    }

    /// Adds others.
    pub(super) fn extend(&mut self, others: Option<Self>) {
        if let Some(other) = others {
            self.files.extend(other.files);
            self.contents.extend(other.contents);
        }
    }

    /// Adds those of others that are not here yet.
    pub(super) fn extend_missing(&mut self, others: Self) {
        for (file, content) in others.files.into_iter().zip(others.contents) {
            if !self.files.contains(&file) {
                self.files.push(file);
                self.contents.push(content);
            }
        }
    }

    /// The files.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether any is not what it was.
    pub(super) fn changed(&self) -> bool {
        self.files.iter().zip(&self.contents).any(|(file, before)| content(file) != *before)
    }

    /// Takes the present content as seen.
    pub(super) fn renew(&mut self) {
        self.contents = self.files.iter().map(|file| content(file)).collect();
    }
}

fn content(file: &Path) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    std::fs::read(file).ok().hash(&mut hasher);
    hasher.finish()
}
