//! `countersign demo`: an API that verifies what it is sent, called through the real proxy by an ordinary client that holds
//! no key. Everything on loopback, every key made anew for this run.

mod api;
mod aws;
mod azure;
mod cases;
mod digest;
mod flexera;
mod google;
mod identity;
mod jwt;
mod login;
mod ntlm;
mod oracle;
mod policy;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use owo_colors::{OwoColorize, Style};
use serde_json::{Value, json};

use self::api::Api;
use self::cases::{CASES, Case, Expected, Keys};
use super::{Context, Failure, on_terminal};
use crate::app::App;
use crate::config::Config;
use crate::listen::Address;

#[derive(Args)]
pub(super) struct Arguments {
    /// One JSON array instead of text
    #[arg(long)]
    json: bool,
    /// Send traces of the run to an OTLP collector on this host
    #[arg(long, value_name = "URL", hide = true)]
    traces: Option<String>,
    /// Where to write what /metrics says at the end (OpenMetrics)
    #[arg(long, value_name = "FILE")]
    metrics: Option<PathBuf>,
}

/// What one case showed.
struct Outcome {
    scheme: &'static str,
    about: &'static str,
    /// Whose word `verified` is.
    who: &'static str,
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
    let token = cases::random().map_err(failed)?;
    let config = configuration(folder.path(), &keys, &api, &token).map_err(failed)?;
    let config =
        config + &arguments.traces.as_ref().map(|url| format!("traces: {{ endpoint: {url:?} }}\n")).unwrap_or_default();
    let config = Config::parse(&config).map_err(Failure::Config)?;
    let app = App::start_in_memory(config, context.deps.clone()).await?;
    let proxy = forward_address(&app).ok_or_else(|| failed("no listener".into()))?;
    let through = client(&app, Some(proxy)).map_err(failed)?;
    let direct = client_trusting(api.ca_der(), None).map_err(failed)?;
    let direct = cases::hosts().into_iter().fold(direct, |client, host| client.resolve(host, api.address()));
    let direct = direct.build().map_err(|error| failed(error.to_string()))?;
    let mut outcomes = Vec::new();
    for case in CASES {
        outcomes.push(show(case, &through, &direct, api.address().port()).await);
    }
    // Last: where a policy is applied, whoever calls has to say who it is.
    outcomes.extend(policy::show(&app, proxy, &direct, api.address().port(), &token).await.map_err(failed)?);
    if let Some(file) = &arguments.metrics {
        let told = scrape(&app).await.map_err(failed)?;
        std::fs::write(file, told).map_err(|error| failed(error.to_string()))?;
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

/// What the proxy says of this run to whoever asks for its metrics.
async fn scrape(app: &App) -> Result<String, String> {
    let Some(Address::Tcp(address)) = app.admin_address() else { return Err("no admin listener".into()) };
    let text = |error: reqwest::Error| error.to_string();
    let client = reqwest::Client::builder().no_proxy().build().map_err(text)?;
    let request = client.get(format!("http://{address}/metrics")).header("accept", "application/openmetrics-text");
    request.send().await.map_err(text)?.error_for_status().map_err(text)?.text().await.map_err(text)
}

/// The demo's configuration, as a person would write it.
fn configuration(folder: &Path, keys: &Keys, api: &Api, token: &str) -> Result<String, String> {
    for (name, key) in keys.files() {
        std::fs::write(folder.join(name), key).map_err(|error| error.to_string())?;
    }
    std::fs::write(folder.join(policy::ADMIN_TOKEN), token).map_err(|error| error.to_string())?;
    let root = folder.join("demo-api-ca.pem");
    std::fs::write(&root, api.ca_pem()).map_err(|error| error.to_string())?;
    let mut text = format!(
        "listeners:\n  forward:\n    - address: 127.0.0.1:0\nlog: {{ level: error, requests: false }}\nupstream:\n  \
         allow_addresses: [127.0.0.0/8]\n  ca_file: {root:?}\n  resolve:\n"
    );
    for host in cases::hosts() {
        text.push_str(&format!("    \"{host}:443\": {}\n", api.address()));
    }
    text.push_str(&format!(
        "admin: {{ address: 127.0.0.1:0, tokens: [{{ name: demo, role: admin, token: {{ file: {:?} }} }}] }}\n\
         store: {{ url: \"sqlite:{}\" }}\naudit: {{ directory: {:?} }}\ntokens: {{ directory: {:?} }}\ncredentials:\n",
        folder.join(policy::ADMIN_TOKEN),
        folder.join("demo.db").display(),
        folder.join("audit"),
        folder.join("tokens")
    ));
    let mut bindings = String::from("bindings:\n");
    for case in CASES {
        let settings = case.settings.replace("FOLDER", &folder.display().to_string());
        text.push_str(&format!("  - id: {}\n    hosts: [{}]\n{settings}", case.id, case.host));
        bindings
            .push_str(&format!("  - {{ credential: {}, hosts: [{}], paths: [{}] }}\n", case.id, case.host, case.path));
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
    let target = [case.path, if case.query.is_empty() { "" } else { "?" }, case.query].concat();
    let url = format!("https://{}{target}", case.host);
    let mut with = Vec::new();
    for _ in 0..case.times {
        with.push(ask(through, case, &url).await);
    }
    // Each different answer once: more than one is a failure, and is seen.
    with.dedup();
    let bare = ask(direct, case, &format!("https://{}:{port}{target}", case.host)).await;
    let each = |part: fn(&Answer) -> String| with.iter().map(part).collect::<Vec<_>>().join("; then ");
    let ended = |answer: &Answer| match case.expected {
        Expected::Verified => answer.status == 200,
        Expected::Rejected(word) => {
            answer.text("code") == "credential_rejected" && answer.text("detail").contains(word)
        }
    };
    let signed = case.headers.iter().any(|(name, _)| *name == "authorization");
    let who = match case.expected {
        Expected::Verified => "the API verified",
        Expected::Rejected(_) => "the caller got",
    };
    Outcome {
        scheme: case.scheme,
        about: case.about,
        who,
        sent: format!(
            "{} {url}, {}{}",
            case.method,
            if signed { "a worthless signature" } else { "no credential" },
            if case.times > 1 { format!(", {} times", case.times) } else { String::new() }
        ),
        added: each(|answer| answer.document["received"].as_str().unwrap_or("nothing").to_owned()),
        verified: each(Answer::judgement),
        without: bare.judgement(),
        passed: with.len() == 1 && with.iter().all(ended) && matches!(bare.status, 401 | 403),
    }
}

/// What a caller got.
#[derive(PartialEq)]
struct Answer {
    status: u16,
    document: Value,
}

impl Answer {
    fn text(&self, key: &str) -> String {
        self.document[key].as_str().unwrap_or("-").to_owned()
    }

    /// The API's verdict, or why Countersign refused: the first part, what follows is advice.
    fn judgement(&self) -> String {
        let said = match self.document["verdict"].as_str() {
            Some(verdict) => verdict.to_owned(),
            None => self.text("detail").split("; ").take(1).collect(),
        };
        format!("{} {said}", self.status)
    }
}

async fn ask(client: &reqwest::Client, case: &Case, url: &str) -> Answer {
    let mut request = client.request(case.method.clone(), url).body(case.body);
    for (name, value) in case.headers {
        request = request.header(*name, *value);
    }
    match request.send().await {
        Ok(answer) => {
            let status = answer.status().as_u16();
            let body = answer.bytes().await.unwrap_or_default();
            Answer { status, document: serde_json::from_slice(&body).unwrap_or(Value::Null) }
        }
        Err(error) => Answer { status: 0, document: json!({ "verdict": format!("{error:?}") }) },
    }
}

fn print_json(outcomes: &[Outcome]) {
    let rows = outcomes.iter().map(|outcome| {
        json!({
            "scheme": outcome.scheme,
            "case": outcome.about,
            "caller_sent": outcome.sent,
            "countersign_added": outcome.added,
            "api_verified": outcome.verified,
            "without_countersign": outcome.without,
            "passed": outcome.passed,
        })
    });
    say!("{}", Value::Array(rows.collect()));
}

fn print_text(outcomes: &[Outcome], colour: bool) {
    let style = |style: Style| if colour { style } else { Style::new() };
    for outcome in outcomes {
        let (mark, look) =
            if outcome.passed { ("passed", Style::new().green()) } else { ("FAILED", Style::new().red()) };
        let scheme = outcome.scheme.style(style(Style::new().bold()));
        say!("{}  {scheme}: {}", mark.style(style(look)), outcome.about);
        say!("        the caller sent      {}", outcome.sent);
        say!("        Countersign added    {}", outcome.added);
        say!("        {:<20} {}", outcome.who, outcome.verified);
        say!("        without Countersign  {}", outcome.without);
    }
    let passed = outcomes.iter().filter(|outcome| outcome.passed).count();
    say!("{passed} of {} exchanges ended as they must", outcomes.len());
}
