//! The record as a whole: written, tampered with, checked; a disk that is full, a store that is away.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Instant, SystemTime};

use super::*;
use crate::base::deps::{Sleep, SystemClock};
use crate::store::{AuditRow, StoreError};

/// The wall clock as it is told; waits end when it is moved beyond them.
#[derive(Debug, Clone)]
struct TestClock(Arc<watch::Sender<Duration>>, Instant);

impl TestClock {
    fn new() -> Self {
        Self(Arc::new(watch::Sender::new(Duration::ZERO)), SystemClock.instant())
    }

    fn pass(&self, time: Duration) {
        self.0.send_modify(|passed| *passed += time);
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_356_000) + *self.0.borrow()
    }
    fn instant(&self) -> Instant {
        self.1 + *self.0.borrow()
    }
    fn sleep_until(&self, moment: Instant) -> Sleep {
        let (mut time, begun) = (self.0.subscribe(), self.1);
        Box::pin(async move {
            let _ = time.wait_for(|passed| begun + *passed >= moment).await;
        })
    }
}

struct Case {
    folder: tempfile::TempDir,
    clock: TestClock,
    settings: Settings,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings { directory: folder.path().join("audit"), ..Settings::default() };
        Self { folder, clock: TestClock::new(), settings }
    }

    fn open(&self) -> AuditLog {
        let deps = Deps { clock: Arc::new(self.clock.clone()), ..Deps::system() };
        AuditLog::open(&self.settings, &deps).unwrap()
    }

    fn path(&self) -> &Path {
        &self.settings.directory
    }

    fn findings(&self) -> Findings {
        self.findings_with(None)
    }

    fn findings_with(&self, rows: Option<Vec<AuditRow>>) -> Findings {
        let mut hashes = RowHashes::new();
        for row in rows.iter().flatten() {
            let (number, hash) = rows::row_hash(&row.process, row.number, &row.line);
            hashes.entry(row.process.clone()).or_default().insert(number, hash);
        }
        verify(&Before::of(self.path()).unwrap(), rows.map(|_| &hashes)).unwrap()
    }

    fn problems(&self) -> Vec<String> {
        self.findings().problems.into_iter().map(|finding| finding.problem).collect()
    }

    fn tails(&self) -> Vec<Tail> {
        self.findings().chains.into_iter().map(|chain| chain.tail).collect()
    }

    fn files(&self) -> Vec<PathBuf> {
        folder::files(self.path()).unwrap().into_iter().map(|file| file.path).collect()
    }

    fn lines(&self) -> Vec<Line> {
        let all = Query { limit: usize::MAX, ..Query::default() };
        search(self.path(), &all).unwrap().0
    }
}

fn change(n: usize) -> AuditEvent {
    AuditEvent::new("credential.update", "acme", "ok").of(format!("c{n}")).by("token:ci").fact("fields", "key, hosts")
}

/// A whole chain of five lines.
async fn written(case: &Case) {
    let log = case.open();
    for n in 0..3 {
        log.record(change(n)).await.unwrap();
    }
    log.close().await;
}

/// What a process leaves that was killed: no last line, and a mark that nobody holds.
async fn killed(log: AuditLog) {
    let folder = fs::read_dir(&log.settings().directory).unwrap();
    let paths = folder.map(|entry| entry.unwrap().path());
    let before: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    log.close().await;
    for (path, content) in before {
        fs::write(path, content).unwrap();
    }
}

#[tokio::test]
async fn a_chain_begins_and_ends_with_its_process_and_holds_every_event() {
    let case = Case::new();
    written(&case).await;
    let lines = case.lines();
    let actions: Vec<_> = lines.iter().map(|line| line.action.as_str()).collect();
    let change = "credential.update";
    assert_eq!(actions, [line::START, change, change, change, line::END]);
    assert_eq!(lines.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(lines[1].facts.get("fields"), Some("key, hosts"));
    assert_eq!((case.problems(), case.tails()), (vec![], vec![Tail::Ended]));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(case.path()), mode(&case.files()[0])), (0o700, 0o600));
}

#[tokio::test]
async fn no_byte_of_a_file_changes_goes_or_comes_without_being_found() {
    let case = Case::new();
    written(&case).await;
    let path = case.files().remove(0);
    let whole = fs::read(&path).unwrap();
    let finds = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        assert!(!case.problems().is_empty(), "{what}: {}", String::from_utf8_lossy(bytes));
    };
    for index in 0..whole.len() {
        let mut changed = whole.clone();
        changed[index] ^= 1 << (index % 8);
        finds(&changed, "changed");
        match index % 3 {
            0 => finds(&[&whole[..index], &whole[index + 1..]].concat(), "gone"),
            1 => finds(&[&whole[..index], b"x", &whole[index..]].concat(), "come"),
            _ => finds(&whole[..index], "cut"),
        }
    }
    finds(&[&whole[..], b"\n"].concat(), "an empty line more");
    fs::write(&path, whole).unwrap();
    assert_eq!(case.problems(), [""; 0]);
}

#[tokio::test]
async fn lines_that_were_swapped_removed_repeated_or_forged_are_named() {
    let case = Case::new();
    written(&case).await;
    let path = case.files().remove(0);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let with = |order: &[&str]| {
        fs::write(&path, order.join("\n") + "\n").unwrap();
        case.findings().problems.into_iter().map(|finding| (finding.line, finding.problem)).collect::<Vec<_>>()
    };
    let at = |line, problem: &str| (Some(line), problem.to_owned());
    let [a, b, c, d, e] = lines[..] else { panic!("{text}") };
    assert_eq!(with(&[a, b, c, d, e]), []);
    assert_eq!(with(&[a, b, d, e]), [at(3, "line 3 is missing before this one")]);
    assert_eq!(with(&[a, d, e]), [at(2, "lines 2 to 3 are missing before this one")]);
    let swapped = with(&[a, c, b, d, e]);
    assert_eq!(swapped, [at(2, "line 2 is missing before this one"), at(3, "line 2 stands after line 3")]);
    assert_eq!(with(&[a, b, b, c, d, e]), [at(3, "line 2 stands after line 2")]);
    assert!(with(&[b, c, d, e])[0].1.contains("its lines before 2 are missing"));
    assert!(with(&[a, b, c])[0].1.contains("it was cut: its last line here is 3, and line 5 was on disk"));
    assert_eq!(with(&[a, b, c, d, e, "{}"])[0], at(6, "this is not a line of the record"));
    // One who recomputes the hash of the line that he changed would have to do so for every line after it.
    let mut forged = Line::read(c.as_bytes()).unwrap();
    forged.actor = Some("somebody else".into());
    forged.hash.clear();
    let mut bytes = Vec::new();
    forged.write(&mut bytes).unwrap();
    let forged = String::from_utf8(bytes).unwrap();
    let problem = "it does not follow the line before: one of the two was replaced";
    assert_eq!(with(&[a, b, forged.trim_end(), d, e]), [at(4, problem)]);
}

#[tokio::test]
async fn a_process_that_was_killed_is_told_from_a_chain_that_was_cut() {
    let case = Case::new();
    let log = case.open();
    log.record(change(1)).await.unwrap();
    assert_eq!((case.problems(), case.tails()), (vec![], vec![Tail::Running]));
    killed(log).await;
    assert_eq!((case.problems(), case.tails()), (vec![], vec![Tail::Killed]));
    let path = case.files().remove(0);
    let whole = fs::read(&path).unwrap();
    // It was writing when it was killed: that line was promised to nobody.
    fs::write(&path, [&whole[..], b"{\"time\":\"20"].concat()).unwrap();
    assert_eq!((case.problems(), case.tails()), (vec![], vec![Tail::Killed]));
    for cut in [whole.len() - 1, whole.len() / 2] {
        fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(case.tails(), [Tail::Cut], "{cut}");
        assert_eq!(case.problems().len(), 1);
    }
    fs::write(&path, &whole).unwrap();
    let mark = fs::read_dir(case.path()).unwrap().map(|entry| entry.unwrap().path());
    let mark = mark.into_iter().find(|path| path.extension().is_some_and(|one| one == "mark")).unwrap();
    fs::remove_file(mark).unwrap();
    assert_eq!(case.tails(), [Tail::Unknown]);
    assert!(case.problems()[0].contains("its mark is gone"));
}

#[tokio::test]
async fn a_chain_that_is_gone_is_missed_by_the_one_that_saw_it() {
    let case = Case::new();
    written(&case).await;
    let first = case.files().remove(0);
    case.clock.pass(TICK);
    written(&case).await;
    assert_eq!((case.problems(), case.tails()), (vec![], vec![Tail::Ended, Tail::Ended]));
    fs::remove_file(&first).unwrap();
    assert_eq!(case.problems().len(), 2, "{:?}", case.problems());
    let name = first.file_name().unwrap().to_str().unwrap().split('-').next().unwrap();
    fs::remove_file(case.path().join(format!("{name}.mark"))).unwrap();
    assert_eq!(case.problems().len(), 1);
    assert!(case.problems()[0].contains("line 5 is gone, which was there when process"));
}

#[tokio::test]
async fn processes_share_a_folder_and_each_has_its_chain() {
    let case = Case::new();
    let (one, other) = (case.open(), case.open());
    for n in 0..20 {
        one.record(change(n)).await.unwrap();
        other.record(change(n)).await.unwrap();
    }
    assert_eq!((case.problems(), case.tails()), (vec![], vec![Tail::Running, Tail::Running]));
    one.close().await;
    other.close().await;
    assert_eq!((case.problems(), case.tails(), case.lines().len()), (vec![], vec![Tail::Ended, Tail::Ended], 44));
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_wait_together_share_a_synchronization_and_each_has_its_line() {
    let case = Case::new();
    let log = case.open();
    let tasks: Vec<_> = (0..500)
        .map(|n| {
            let log = log.clone();
            tokio::spawn(async move { log.record(change(n)).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    log.close().await;
    assert_eq!((case.problems(), case.lines().len()), (vec![], 502));
}

#[tokio::test]
async fn a_chain_goes_on_in_another_file_by_size_and_by_day() {
    let mut case = Case::new();
    case.settings.file_bytes = 2000;
    let log = case.open();
    for n in 0..20 {
        log.record(change(n)).await.unwrap();
    }
    let by_size = case.files().len();
    assert!((4..10).contains(&by_size), "{by_size}");
    case.clock.pass(Duration::from_secs(24 * 3600));
    log.record(change(20)).await.unwrap();
    assert_eq!(case.files().len(), by_size + 1);
    log.close().await;
    assert_eq!((case.problems(), case.lines().len()), (vec![], 23));
    // Any of them by themselves, too, and a gap between them.
    let files = case.files();
    assert_eq!(verify_files(&files[1..3]).unwrap().problems, []);
    fs::remove_file(&files[2]).unwrap();
    let problems = case.problems();
    assert!(problems.len() == 1 && problems[0].contains("are missing before this one"), "{problems:?}");
}

#[tokio::test]
async fn while_nothing_can_be_written_changes_are_refused_and_what_was_noted_comes_in_order() {
    let case = Case::new();
    let log = case.open();
    log.record(change(0)).await.unwrap();
    assert_eq!(log.blocked(), None);
    // A folder that is gone stands for a disk that takes nothing.
    let aside = case.folder.path().join("aside");
    fs::rename(case.path(), &aside).unwrap();
    fs::write(case.path(), "").unwrap();
    let refused = log.record(change(1)).await.unwrap_err();
    assert_eq!(log.blocked(), Some(refused));
    let denial = |host: &str| AuditEvent::new("use.denied", "a", "unbound").fact("destination", host);
    log.note(denial("a.test"));
    log.note(denial("b.test"));
    log.note(denial("a.test"));
    log.record(change(2)).await.unwrap_err();
    case.clock.pass(TICK);
    log.record(change(3)).await.unwrap_err();
    fs::remove_file(case.path()).unwrap();
    fs::rename(&aside, case.path()).unwrap();
    while log.blocked().is_some() {
        case.clock.pass(TICK);
        tokio::task::yield_now().await;
    }
    log.record(change(4)).await.unwrap();
    log.close().await;
    assert_eq!((case.problems(), case.tails()), (vec![], vec![Tail::Ended]));
    let lines = case.lines();
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            let what = line.subject.as_deref().or(line.facts.get("destination")).unwrap_or("-");
            format!("{what} {} {}", line.outcome, line.facts.get("count").unwrap_or("1"))
        })
        .collect();
    let expected = [
        "- ok 1",
        "c0 ok 1",
        "c1 audit_unavailable 1",
        "a.test unbound 1",
        "b.test unbound 1",
        "c2 audit_unavailable 1",
        "c3 audit_unavailable 1",
    ];
    assert_eq!(told[..7], expected);
    assert!(told.contains(&"a.test unbound 1".to_owned()) && told.contains(&"c4 ok 1".to_owned()), "{told:?}");
    assert_eq!(told.len(), 10, "the repetition of a.test, c4 and the last line: {told:?}");
}

#[tokio::test]
async fn a_record_that_somebody_removes_or_writes_into_goes_on_in_another_file_and_the_check_says_so() {
    let case = Case::new();
    let log = case.open();
    log.record(change(0)).await.unwrap();
    let path = case.files().remove(0);
    fs::remove_file(&path).unwrap();
    log.record(change(1)).await.unwrap();
    let second = case.files().remove(0);
    assert_ne!(second, path);
    assert!(case.problems()[0].contains("its lines before 3 are missing"));
    let mut content = fs::read(&second).unwrap();
    content.extend_from_slice(b"not ours\n");
    fs::write(&second, content).unwrap();
    log.record(change(2)).await.unwrap();
    assert_eq!(case.files().len(), 2);
    log.close().await;
    assert!(
        case.problems().iter().any(|problem| problem.contains("not a line of the record")),
        "{:?}",
        case.problems()
    );
}

#[tokio::test]
async fn whoever_left_before_the_line_was_written_did_not_do_it() {
    let case = Case::new();
    let log = case.open();
    drop(log.record(change(0)));
    {
        // Asked once, and then no more.
        let mut asked = log.record(change(1));
        let waker = std::task::Waker::noop();
        let _ = asked.as_mut().poll(&mut std::task::Context::from_waker(waker));
    }
    log.record(change(2)).await.unwrap();
    log.close().await;
    assert_eq!(case.problems(), [""; 0]);
    let outcome = |subject: &str| {
        let of = |line: &Line| line.subject.as_deref() == Some(subject);
        case.lines().into_iter().rev().find(of).map(|line| line.outcome)
    };
    assert_eq!(outcome("c0"), None);
    assert_eq!(outcome("c1").as_deref(), Some("withdrawn"));
    assert_eq!(outcome("c2").as_deref(), Some("ok"));
}

#[tokio::test]
async fn old_files_are_removed_on_demand_and_are_not_missed() {
    let mut case = Case::new();
    written(&case).await;
    case.settings.keep = Some(Duration::from_secs(30 * 24 * 3600));
    let second = case.open();
    second.record(change(1)).await.unwrap();
    assert_eq!(case.files().len(), 2);
    // Its mtime is the system's time: the test's clock is moved far beyond it.
    let age = SystemClock.now().duration_since(case.clock.now()).unwrap_or_default();
    case.clock.pass(age + Duration::from_secs(31 * 24 * 3600));
    let own = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&second.0.0.process);
    while !case.files().iter().all(own) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!case.files().is_empty(), "the file that is written to stays");
    assert_eq!(case.problems(), [""; 0]);
    second.close().await;
    let removal = case.lines().into_iter().find(|line| line.action == sweep::REMOVE).unwrap();
    assert_eq!((removal.facts.get("first"), removal.facts.get("last")), (Some("1"), Some("5")));
    let third = case.open();
    third.close().await;
    assert_eq!(case.problems(), [""; 0]);
}

/// Rows in memory; away for so many calls.
#[derive(Debug, Default)]
struct Rows {
    rows: Mutex<BTreeMap<(String, i64), AuditRow>>,
    away: std::sync::atomic::AtomicUsize,
    full: Notify,
}

impl RowSink for Rows {
    fn add(&self, rows: Vec<AuditRow>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            if self.away.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                return Err(StoreError::Unavailable("away".into()));
            }
            self.rows.lock().unwrap().extend(rows.into_iter().map(|row| ((row.process.clone(), row.number), row)));
            self.full.notify_one();
            Ok(())
        })
    }
}

impl Rows {
    fn all(&self) -> Vec<AuditRow> {
        self.rows.lock().unwrap().values().cloned().collect()
    }

    async fn until(&self, count: usize) {
        while self.rows.lock().unwrap().len() < count {
            self.full.notified().await;
        }
    }
}

/// Runs the mover until the store has so many rows, moving the clock.
async fn moved(case: &Case, log: &AuditLog, rows: &Arc<Rows>, count: usize) {
    let pass = async {
        loop {
            case.clock.pass(TICK);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = log.keep_rows(Arc::clone(rows) as Arc<dyn RowSink>) => {}
        () = rows.until(count) => {}
        () = pass => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_becomes_a_row_through_outages_and_restarts() {
    let mut case = Case::new();
    case.settings.file_bytes = 3000;
    let rows = Arc::<Rows>::default();
    let first = case.open();
    first.record(change(0)).await.unwrap();
    rows.away.store(3, Ordering::Relaxed);
    moved(&case, &first, &rows, 2).await;
    for n in 0..1200 {
        first.note(change(n));
    }
    first.close().await;
    let lines = case.lines().len();
    assert!(lines > 64, "{lines}");
    let second = case.open();
    moved(&case, &second, &rows, lines + 1).await;
    second.close().await;
    let third = case.open();
    let all = case.lines().len();
    moved(&case, &third, &rows, all).await;
    let findings = case.findings_with(Some(rows.all()));
    assert_eq!(findings.problems, []);
    let texts: Vec<_> = rows.all().into_iter().map(|row| row.line).collect();
    assert!(case.lines().iter().all(|line| texts.contains(&serde_json::to_string(line).unwrap())));
    third.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_and_files_are_held_against_each_other() {
    let case = Case::new();
    let rows = Arc::<Rows>::default();
    let log = case.open();
    for n in 0..3 {
        log.record(change(n)).await.unwrap();
    }
    moved(&case, &log, &rows, 4).await;
    // The place is noted after the rows are there.
    let process = log.0.0.process.clone();
    folder::set_rows(case.path(), &process, 4).unwrap();
    log.record(change(3)).await.unwrap();
    let problems = |rows: Vec<AuditRow>| {
        case.findings_with(Some(rows)).problems.into_iter().map(|finding| finding.problem).collect::<Vec<_>>()
    };
    let all = rows.all();
    assert_eq!(problems(all.clone()), [""; 0], "a line that is not there yet is no problem");
    assert_eq!(case.findings_with(Some(all.clone())).chains[0].waiting, 1);
    let without = |n: usize| [&all[..n], &all[n + 1..]].concat();
    assert_eq!(problems(without(1)), ["line 2 is in the files and gone from the store"]);
    assert_eq!(problems(all[2..].to_vec()), [""; 0], "the store may forget what is old");
    assert_eq!(case.findings_with(Some(all[2..].to_vec())).chains[0].forgotten, 2);
    let mut changed = all.clone();
    changed[2].line = changed[2].line.replace("token:ci", "token:no");
    assert_eq!(problems(changed), ["line 3 differs between the file and the store"]);
    log.close().await;
    // Cut, mark and all: the store knows better.
    let path = case.files().remove(0);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.lines().take(2).collect::<Vec<_>>().join("\n") + "\n").unwrap();
    fs::remove_file(case.path().join(format!("{process}.mark"))).unwrap();
    assert!(problems(all).contains(&"lines 3 to 4 are in the store and not in the files".to_owned()));
}
