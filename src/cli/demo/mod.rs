//! `countersign demo`: an API that verifies what it is sent, called through the real proxy by an ordinary client that holds
//! no key. Everything on loopback, every key made anew for this run.

mod api;
mod cases;
mod identity;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use clap::Args;
use owo_colors::{OwoColorize, Style};
use serde_json::{Value, json};

use self::api::Api;
use self::cases::{CASES, Case, Keys};
use super::{Context, Failure, on_terminal};
use crate::app::App;
use crate::config::Config;
use crate::listen::Address;

#[derive(Args)]
pub(super) struct Arguments {
    /// One JSON array instead of text
    #[arg(long)]
    json: bool,
}

/// What one case showed.
struct Outcome {
    case: &'static Case,
    sent: String,
    added: String,
    verified: String,
    without: String,
    passed: bool,
}

pub(super) async fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    crate::observe::init("error", crate::observe::Form::Auto, context.colour);
    let failed = |error: String| Failure::Other(format!("the demo could not be set up: {error}"));
    let keys = Keys::generate().map_err(failed)?;
    let api = Api::start(keys.clone(), Arc::clone(&context.deps.clock)).await.map_err(failed)?;
    let folder = tempfile::tempdir().map_err(|error| failed(error.to_string()))?;
    let config = configuration(folder.path(), &keys, &api).map_err(failed)?;
    let config = Config::parse(&config).map_err(Failure::Config)?;
    let app = App::start_in_memory(config, context.deps.clone()).await?;
    let proxy = forward_address(&app).ok_or_else(|| failed("no listener".into()))?;
    let through = client(&app, Some(proxy)).map_err(failed)?;
    let direct = client_trusting(api.ca_der(), None).map_err(failed)?.resolve(cases::HOST, api.address());
    let direct = direct.build().map_err(|error| failed(error.to_string()))?;
    let mut outcomes = Vec::new();
    for case in CASES {
        outcomes.push(show(case, &through, &direct, api.address().port()).await);
    }
    app.drain().await;
    let passed = outcomes.iter().all(|outcome| outcome.passed);
    if arguments.json {
        print_json(&outcomes)
    } else {
        print_text(&outcomes, context.colour && on_terminal())
    }
    Ok(u8::from(!passed))
}

/// The demo's configuration, as a person would write it.
fn configuration(folder: &Path, keys: &Keys, api: &Api) -> Result<String, String> {
    for (name, key) in keys.files() {
        std::fs::write(folder.join(name), key).map_err(|error| error.to_string())?;
    }
    let root = folder.join("demo-api-ca.pem");
    std::fs::write(&root, api.ca_pem()).map_err(|error| error.to_string())?;
    let mut text = format!(
        "listeners:\n  forward:\n    - address: 127.0.0.1:0\nlog: {{ level: error, requests: false }}\nupstream:\n  \
         allow_addresses: [127.0.0.0/8]\n  ca_file: {root:?}\n  resolve:\n    \"{host}:443\": {address}\n    \"{login}:443\": {address}\n\
         tokens: {{ directory: {tokens:?} }}\ncredentials:\n",
        login = cases::LOGIN_HOST,
        tokens = folder.join("tokens"),
        host = cases::HOST,
        address = api.address(),
    );
    let mut bindings = String::from("bindings:\n");
    for case in CASES {
        let settings = case.settings.replace("FOLDER", &folder.display().to_string());
        text.push_str(&format!("  - id: {}\n    hosts: [{}]\n{settings}", case.id, cases::HOST));
        bindings.push_str(&format!(
            "  - {{ credential: {}, hosts: [{}], paths: [{}] }}\n",
            case.id,
            cases::HOST,
            case.path
        ));
    }
    text.push_str(&bindings);
    Ok(text)
}

fn forward_address(app: &App) -> Option<SocketAddr> {
    app.addresses().into_iter().find_map(|(_, address)| match address {
        Address::Tcp(address) => Some(address),
        Address::Unix(_) => None,
    })
}

/// An ordinary client that trusts one certificate authority and nothing else.
fn client_trusting(ca: &[u8], proxy: Option<SocketAddr>) -> Result<reqwest::ClientBuilder, String> {
    let text = |error: reqwest::Error| error.to_string();
    let root = reqwest::Certificate::from_der(ca).map_err(text)?;
    let builder =
        reqwest::Client::builder().tls_certs_only([root]).no_proxy().redirect(reqwest::redirect::Policy::none());
    Ok(match proxy {
        Some(proxy) => builder.proxy(reqwest::Proxy::all(format!("http://{proxy}")).map_err(text)?),
        None => builder,
    })
}

fn client(app: &App, proxy: Option<SocketAddr>) -> Result<reqwest::Client, String> {
    let ca = app.ca().ok_or("no certificate authority")?;
    client_trusting(ca.certificate(), proxy)?.build().map_err(|error| error.to_string())
}

async fn show(case: &'static Case, through: &reqwest::Client, direct: &reqwest::Client, port: u16) -> Outcome {
    let url = format!("https://{}{}", cases::HOST, case.path);
    let with = ask(through, &url).await;
    let bare = ask(direct, &format!("https://{}:{port}{}", cases::HOST, case.path)).await;
    let text = |answer: &(u16, Value), key: &str| answer.1[key].as_str().unwrap_or("-").to_owned();
    Outcome {
        case,
        sent: format!("GET {url}, no credential"),
        added: text(&with, "received"),
        verified: format!("{} {}", with.0, text(&with, "verdict")),
        without: format!("{} {}", bare.0, text(&bare, "verdict")),
        passed: with.0 == 200 && bare.0 == 401,
    }
}

async fn ask(client: &reqwest::Client, url: &str) -> (u16, Value) {
    match client.get(url).send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let body = answer.bytes().await.unwrap_or_default();
            (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
        }
        Err(error) => (0, json!({ "verdict": format!("{error:?}") })),
    }
}

#[expect(clippy::print_stdout, reason = "this is the command's answer")]
fn print_json(outcomes: &[Outcome]) {
    let rows = outcomes.iter().map(|outcome| {
        json!({
            "scheme": outcome.case.scheme,
            "case": outcome.case.about,
            "caller_sent": outcome.sent,
            "countersign_added": outcome.added,
            "api_verified": outcome.verified,
            "without_countersign": outcome.without,
            "passed": outcome.passed,
        })
    });
    println!("{}", Value::Array(rows.collect()));
}

#[expect(clippy::print_stdout, reason = "this is the command's answer")]
fn print_text(outcomes: &[Outcome], colour: bool) {
    let style = |style: Style| if colour { style } else { Style::new() };
    for outcome in outcomes {
        let (mark, look) =
            if outcome.passed { ("passed", Style::new().green()) } else { ("FAILED", Style::new().red()) };
        let scheme = outcome.case.scheme.style(style(Style::new().bold()));
        println!("{}  {scheme}: {}", mark.style(style(look)), outcome.case.about);
        println!("        the caller sent      {}", outcome.sent);
        println!("        Countersign added    {}", outcome.added);
        println!("        the API verified     {}", outcome.verified);
        println!("        without Countersign  {}", outcome.without);
    }
    let passed = outcomes.iter().filter(|outcome| outcome.passed).count();
    println!("{passed} of {} exchanges were verified by the API", outcomes.len());
}
