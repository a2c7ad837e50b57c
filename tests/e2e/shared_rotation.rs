//! Refresh tokens that are replaced at every use, in processes that have one encrypted store: none is spent twice, whatever
//! happens to a process or to the database.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::rotation::{GET, POINTS, TOKEN, config, debug_build, provider, provider_with, start};
use crate::support::postgres::{PASSWORD, Postgres};
use crate::support::redis::Redis;
use crate::support::{DEADLINE, Origin, Proxy, Raw, binary, measured, raw};
use crate::tokens::Gate;

/// 32 bytes in base64.
const KEY: &str = "Y2FuYXJ5LWtleS0wMTIzNDU2Nzg5YWJjZGVmMDEyMzQ=";

fn stored(text: &str, url: &str) -> String {
    format!("{text}store: {{ url: \"{url}\", password: {{ env: DATABASE }}, key: {{ env: KEY }} }}\n")
}

fn in_a_file(text: &str, folder: &Path) -> String {
    format!("{text}store: {{ url: \"sqlite:{}/store.db\", key: {{ env: KEY }} }}\n", folder.display())
}

fn variables<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [TOKEN, ("DATABASE", PASSWORD), ("KEY", KEY), ("PASSWORD", crate::support::redis::PASSWORD)]
        .into_iter()
        .chain(more.iter().copied())
        .collect()
}

fn ask(proxy: &Proxy) -> JoinHandle<Raw> {
    let address = proxy.forward();
    std::thread::spawn(move || raw(&address, GET))
}

/// One process is killed where the point says, while the other waits for the same token.
async fn killed_at(config_of: impl Fn(&str) -> String, point: &str, retry: bool, serves: bool) {
    let (idp, provider) = provider(retry).await;
    let api = Origin::http().await;
    let more = if retry { "    refresh_reuse: retry\n" } else { "" };
    let text = config_of(&config(&idp, &api, more));
    let mut first = start(debug_build(), &text, &variables(&[("COUNTERSIGN_FAIL_POINT", point)]));
    let second = start(&binary(), &text, &variables(&[]));
    let caller = ask(&first);
    let what = format!("killed at {point}, retry {retry}");
    tokio::task::block_in_place(|| {
        first.wait_log(|log| log.contains(&format!("fail point {point}\n")));
        assert!(api.untouched(), "{what}: the access token was used before its refresh token's successor was safe");
        let waiting = ask(&second);
        first.child.kill().unwrap();
        first.child.wait().unwrap();
        assert_eq!(caller.join().unwrap().status(), 0, "{what}: the first caller saw its connection break");
        let answer = waiting.join().unwrap();
        let outcome = if serves { (200, String::new()) } else { (502, "reauthorization_required".to_owned()) };
        assert_eq!((answer.status(), answer.code()), outcome, "{what}: {}", answer.text);
    });
    let state = provider.lock().unwrap();
    assert_eq!((state.replays, state.revoked), (0, false), "{what}: a used token was sent again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_at_any_point_makes_no_other_process_spend_its_refresh_token_again() {
    let Some(postgres) = Postgres::start("a rotation of two processes on PostgreSQL") else { return };
    let began = Instant::now();
    let mut cases = Vec::new();
    for (number, (point, refuse, retry)) in POINTS.into_iter().enumerate() {
        for (reuse, serves) in [(false, refuse), (true, retry)] {
            let url = postgres.database(&format!("rotation_{number}_{reuse}"));
            cases.push(killed_at(move |text| stored(text, &url), point, reuse, serves));
        }
    }
    // A lease has to end in most of them: they wait for that a few together.
    while !cases.is_empty() {
        let some = cases.split_off(cases.len().saturating_sub(4)).into_iter().map(tokio::spawn);
        for case in some.collect::<Vec<_>>() {
            case.await.unwrap();
        }
    }
    measured(&format!(
        "two processes on one PostgreSQL, one killed at each of {} points with and without refresh_reuse: no refresh token \
         spent twice ({} s in all)",
        POINTS.len(),
        began.elapsed().as_secs()
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_holds_on_sqlite_and_with_shared_tokens() {
    let folder = tempfile::tempdir().unwrap();
    killed_at(|text| in_a_file(text, folder.path()), "refresh-answered", false, false).await;
    let folder = tempfile::tempdir().unwrap();
    killed_at(|text| in_a_file(text, folder.path()), "refresh-stored", false, true).await;
    let Some(redis) = Redis::start("a rotation of two processes with Redis", None) else { return };
    let Some(postgres) = Postgres::start("a rotation of two processes with Redis") else { return };
    let shared = format!("shared: \"{}\", shared_password: {{ env: PASSWORD }} }}\n", redis.url());
    for (number, (point, serves, _)) in POINTS.into_iter().enumerate() {
        let url = postgres.database(&format!("rotation_{number}"));
        let config_of =
            |text: &str| stored(&text.replace("FOLDER/tokens }\n", &format!("FOLDER/tokens, {shared}")), &url);
        killed_at(config_of, point, false, serves).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_on_one_database_take_turns() {
    let Some(postgres) = Postgres::start("rotations of three processes") else { return };
    let (idp, provider) = provider(false).await;
    let api = Origin::http().await;
    let text = stored(&config(&idp, &api, ""), &postgres.url());
    let proxies: Vec<_> = (0..3).map(|_| start(&binary(), &text, &variables(&[]))).collect();
    let callers: Vec<_> = proxies.iter().map(ask).collect();
    tokio::task::block_in_place(|| {
        for caller in callers {
            let answer = caller.join().unwrap();
            assert_eq!(answer.status(), 200, "{}", answer.text);
        }
    });
    {
        let state = provider.lock().unwrap();
        assert_eq!((state.used.len(), state.replays), (3, 0));
    }
    let dump = postgres.dump();
    assert!(
        dump.contains("journals") && !dump.contains("refresh-") && !dump.contains("access-"),
        "it is readable there"
    );
    for proxy in &proxies {
        let folder = proxy.folder.path().join("tokens");
        assert!(!folder.exists(), "nothing rests in a file");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rests_in_a_file_goes_on_in_the_store_and_not_in_the_file_again() {
    let (idp, provider) = provider(false).await;
    let api = Origin::http().await;
    let text = config(&idp, &api, "");
    let proxy = start(&binary(), &text, &variables(&[]));
    assert_eq!(raw(&proxy.forward(), GET).status(), 200);
    let with_store = |proxy: Proxy, folder: &Path, stored: bool| {
        let written = std::fs::read_to_string(&proxy.config).unwrap();
        let written = written.split("store: {").next().unwrap().to_owned();
        let text = if stored { in_a_file(&written, folder) } else { written };
        std::fs::write(&proxy.config, text).unwrap();
        proxy.killed_and_started_again(&binary(), &variables(&[]))
    };
    let folder = proxy.folder.path().to_owned();
    let mut proxy = proxy;
    for _ in 0..2 {
        proxy = with_store(proxy, &folder, true);
        let answer = raw(&proxy.forward(), GET);
        assert_eq!(answer.status(), 200, "{}", answer.text);
    }
    assert_eq!(provider.lock().unwrap().used, ["refresh-0", "refresh-1", "refresh-2"]);
    let proxy = with_store(proxy, &folder, false);
    let answer = raw(&proxy.forward(), GET);
    assert_eq!(answer.code(), "reauthorization_required", "{}", answer.text);
    assert!(answer.text.contains("taken over by the encrypted store"), "{}", answer.text);
    assert_eq!(provider.lock().unwrap().replays, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_no_refresh_token_is_spent_and_what_was_brought_meanwhile_is_not_lost() {
    let Some(mut postgres) = Postgres::start("a database that goes away") else { return };
    let (gate, held) = (Arc::new(Gate::default()), Arc::new(AtomicUsize::new(0)));
    let (inner_gate, inner_held) = (Arc::clone(&gate), Arc::clone(&held));
    let (idp, provider) = provider_with(false, move |used| {
        if used == 2 {
            inner_held.store(1, Ordering::SeqCst);
            inner_gate.wait();
        }
    })
    .await;
    let api = Origin::http().await;
    let text = stored(&config(&idp, &api, ""), &postgres.url());
    let proxy = start(&binary(), &text, &variables(&[]));
    assert_eq!(raw(&proxy.forward(), GET).status(), 200);
    let proxy = proxy.killed_and_started_again(&binary(), &variables(&[]));
    let used = || provider.lock().unwrap().used.len();
    tokio::task::block_in_place(|| {
        // The second exchange has been announced when the database goes, and is answered while it is away.
        let caller = ask(&proxy);
        let began = Instant::now();
        while held.load(Ordering::SeqCst) == 0 {
            assert!(began.elapsed() < DEADLINE, "there is no second exchange");
            std::thread::yield_now();
        }
        postgres.stop("QUIT");
        gate.open();
        let refused = caller.join().unwrap();
        assert_eq!(refused.code(), "token_endpoint_unavailable", "{}", refused.text);
        assert!(refused.text.contains("cannot be kept safe"), "{}", refused.text);
        assert_eq!(raw(&proxy.forward(), GET).code(), "token_endpoint_unavailable");
        assert_eq!(used(), 2, "nothing is spent while it is away");
        postgres.start_again();
        let began = Instant::now();
        while raw(&proxy.forward(), GET).status() != 200 {
            assert!(began.elapsed() < DEADLINE, "it never came back");
        }
    });
    let state = provider.lock().unwrap();
    assert_eq!(
        (state.used.as_slice(), state.replays),
        (["refresh-0", "refresh-1", "refresh-2"].map(String::from).as_slice(), 0)
    );
}
