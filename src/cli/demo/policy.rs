//! A policy in the demo: a template is applied, a run of it calls through the proxy, and its lease ends.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::cases::{CASES, Case};
use super::{Answer, Outcome, ask, client_trusting};
use crate::app::App;
use crate::listen::Address;

/// What the management API asks for.
pub(super) const ADMIN_TOKEN: &str = "admin-token";

const ACCOUNT: &str = "/v1/accounts/default";

/// Asks for one key, at one place.
fn template(case: &Case) -> String {
    format!(
        "name \"Demo\"\ncredentials \"auth_demo\" do\n  schemes \"{}\"\n  label \"Demo\"\nend\n\
         datasource \"ds_demo\" do\n  request do\n    auth $auth_demo\n    host \"{}\"\n    path \"{}\"\n  end\nend\n",
        case.scheme, case.host, case.path
    )
}

/// The management API of the demo's process.
struct Manager {
    client: reqwest::Client,
    base: String,
    token: String,
}

impl Manager {
    async fn call(&self, method: http::Method, path: &str, body: &Value) -> Result<Value, String> {
        let request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.token);
        let request = request.header("content-type", "application/json").body(body.to_string());
        let answer = request.send().await.map_err(|error| error.to_string())?;
        let ok = answer.status().is_success();
        let bytes = answer.bytes().await.map_err(|error| error.to_string())?;
        let document: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if ok { Ok(document) } else { Err(document["detail"].as_str().unwrap_or("no answer").to_owned()) }
    }
}

/// Applies a policy, and shows what a run of it may, what it may not, and that nothing is left of it at its end.
///
/// # Errors
/// When it cannot be set up.
pub(super) async fn show(
    app: &App,
    proxy: SocketAddr,
    direct: &reqwest::Client,
    port: u16,
    token: &str,
) -> Result<Vec<Outcome>, String> {
    let Some(Address::Tcp(admin)) = app.admin_address() else { return Err("no admin listener".into()) };
    let client = reqwest::Client::builder().no_proxy().build().map_err(|error| error.to_string())?;
    let manager = Manager { client, base: format!("http://{admin}"), token: token.to_owned() };
    let find = |id: &str| CASES.iter().find(|case| case.id == id).ok_or_else(|| format!("no case {id}"));
    let (declared, other) = (find("bearer")?, find("basic")?);
    let body = json!({ "template": template(declared), "credentials": { "auth_demo": declared.id } });
    let applied = manager.call(http::Method::POST, &format!("{ACCOUNT}/applied-policies"), &body).await?;
    let word = |document: &Value, key: &str| document[key].as_str().unwrap_or_default().to_owned();
    let runs = format!("{ACCOUNT}/applied-policies/{}/runs", word(&applied, "id"));
    let run = manager.call(http::Method::POST, &runs, &json!({})).await?;
    let ca = app.ca().ok_or("no certificate authority")?;
    let way = reqwest::Proxy::all(format!("http://{proxy}")).map_err(|error| error.to_string())?;
    let way = way.basic_auth(&word(&run, "caller"), &word(&run, "token"));
    let leased = client_trusting(ca.certificate(), None)?.proxy(way);
    let leased = leased.build().map_err(|error| error.to_string())?;
    let through = async |case: &'static Case| ask(&leased, case, &format!("https://{}{}", case.host, case.path)).await;
    let bare = ask(direct, declared, &format!("https://{}:{port}{}", declared.host, declared.path)).await;
    let bare_other = ask(direct, other, &format!("https://{}:{port}{}", other.host, other.path)).await;
    let about = "a run uses what its template asks for, where it does";
    let mut outcomes = vec![outcome(about, declared, &through(declared).await, &bare, Ends::Verified)];
    let put = Case { method: http::Method::PUT, ..*declared };
    let url = format!("https://{}{}", put.host, put.path);
    let refused = ask(&leased, &put, &url).await;
    let about = "the same run may not do what the template does not";
    outcomes.push(outcome(about, &put, &refused, &bare_other, Ends::With("unbound")));
    manager.call(http::Method::DELETE, &format!("{ACCOUNT}/runs/{}", word(&run, "id")), &Value::Null).await?;
    let about = "the run is over, and its open tunnel with it";
    outcomes.push(outcome(about, declared, &through(declared).await, &bare, Ends::With("caller_unknown")));
    Ok(outcomes)
}

/// How a call of a run must end.
#[derive(Clone, Copy)]
enum Ends {
    Verified,
    /// With this code of ours, and nothing goes out.
    With(&'static str),
}

fn outcome(about: &'static str, case: &Case, with: &Answer, bare: &Answer, ends: Ends) -> Outcome {
    let (who, ended) = match ends {
        Ends::Verified => ("the API verified", with.status == 200),
        Ends::With(code) => ("the caller got", with.text("code") == code),
    };
    Outcome {
        scheme: "policy",
        about,
        who,
        sent: format!("{} https://{}{}, a run's token", case.method, case.host, case.path),
        added: with.document["received"].as_str().unwrap_or("nothing").to_owned(),
        verified: with.judgement(),
        without: bare.judgement(),
        passed: ended && matches!(bare.status, 401 | 403),
    }
}
