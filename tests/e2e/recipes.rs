//! Every recipe, as it stands, in a real proxy: one request goes through it, and what arrives is what the vendor documents.
//!
//! What that is stands in `tests/recipes/NAME.yaml`, written after the vendor's page and not after the recipe; see the README there.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::support::{Answer, Origin, Proxy, Root, Seen, countersign, measured, raw, text};

/// What a vendor documents.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    source: String,
    /// By environment variable or file name; what begins with `vectors/` is read from below `tests/`.
    #[serde(default)]
    secrets: BTreeMap<String, String>,
    /// Further variables and files, for schemes that look for them by themselves.
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    /// The calls that Countersign makes for itself, in their order.
    #[serde(default)]
    token: Vec<Exchange>,
    call: Call,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exchange {
    request: String,
    #[serde(default)]
    headers: BTreeMap<String, Option<String>>,
    form: Option<BTreeMap<String, Option<String>>>,
    json: Option<Value>,
    jwt: Option<Jwt>,
    #[serde(default = "ok")]
    status: u16,
    #[serde(default)]
    answer_headers: Headers,
    answer: Option<Value>,
}

fn ok() -> u16 {
    200
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Call {
    request: String,
    /// What the caller sends with it.
    #[serde(default)]
    send: BTreeMap<String, String>,
    #[serde(default)]
    body: String,
    /// Every header that is added; without a value: one that must not be there.
    #[serde(default)]
    headers: BTreeMap<String, Option<String>>,
    target: Option<String>,
    #[serde(default)]
    cookies: BTreeMap<String, String>,
    jwt: Option<Jwt>,
    /// Headers of the 401s that come before the answer, and what must be in the requests that get them.
    #[serde(default)]
    challenge: Challenges,
    #[serde(default)]
    opening: BTreeMap<String, Option<String>>,
}

/// By name, or as pairs where a name comes twice.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Headers {
    Map(BTreeMap<String, String>),
    Pairs(Vec<(String, String)>),
}

impl Default for Headers {
    fn default() -> Self {
        Self::Pairs(Vec::new())
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Challenges {
    One(BTreeMap<String, String>),
    Several(Vec<Headers>),
}

impl Default for Challenges {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Challenges {
    fn nth(&self, index: usize) -> Option<Headers> {
        match self {
            Self::One(one) => (index == 0).then(|| Headers::Map(one.clone())),
            Self::Several(several) => several.get(index).cloned(),
        }
    }
}

/// What a JWT must hold beside whatever else it holds.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jwt {
    /// The form field it stands in, of a token request.
    #[serde(default)]
    field: String,
    #[serde(default)]
    header: Map<String, Value>,
    #[serde(default)]
    claims: Map<String, Value>,
    /// Claims that must not be there.
    #[serde(default)]
    without: Vec<String>,
    /// From `iat` to `exp`, in seconds, at most.
    longest: Option<u64>,
}

/// A recipe and its row.
#[derive(Debug, Clone)]
struct Recipe {
    name: String,
    text: String,
    document: Value,
    row: Row,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(folder: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(root().join(folder)).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

fn recipes() -> Vec<Recipe> {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let mut all = Vec::new();
    for path in files("config/recipes") {
        let name = stem(&path);
        let table = root().join("tests/recipes").join(format!("{name}.yaml"));
        assert!(table.exists(), "config/recipes/{name}.yaml has no row: write tests/recipes/{name}.yaml");
        let row = serde_saphyr::from_str(&read(&table)).unwrap_or_else(|error| panic!("{}: {error}", table.display()));
        let text = read(&path);
        let document = serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        all.push(Recipe { name, text, document, row });
    }
    all
}

impl Recipe {
    /// Entries of a list of the document.
    fn entries(&self, list: &str) -> &[Value] {
        self.document[list].as_array().map_or(&[], Vec::as_slice)
    }

    fn ids(&self) -> BTreeSet<&str> {
        self.entries("credentials").iter().map(|entry| entry["id"].as_str().unwrap()).collect()
    }

    /// The hosts that its entries name, without ports.
    fn hosts(&self) -> BTreeSet<String> {
        let entries = self.entries("credentials").iter().chain(self.entries("bindings"));
        let named = entries.flat_map(|entry| entry["hosts"].as_array().into_iter().flatten());
        named.map(|host| host.as_str().unwrap().split(':').next().unwrap().to_ascii_lowercase()).collect()
    }

    /// Every request there is to be answered: protocol, host, port.
    fn places(&self) -> BTreeSet<(String, String, u16)> {
        let requests = self.row.token.iter().map(|exchange| &exchange.request).chain([&self.row.call.request]);
        requests.map(|request| place(request)).collect()
    }

    /// Whether the two can be in one configuration without being in each other's way.
    fn goes_with(&self, other: &Self) -> bool {
        let alone = |recipe: &Self| {
            let keys = recipe.document.as_object().unwrap().keys();
            !recipe.row.environment.is_empty() || keys.into_iter().any(|key| key != "credentials" && key != "bindings")
        };
        let all = |recipe: &Self| -> BTreeSet<String> {
            recipe.hosts().into_iter().chain(recipe.places().into_iter().map(|(_, host, _)| host)).collect()
        };
        let apart = |one: &String, other: &String| one != other && !covers(one, other) && !covers(other, one);
        let secrets = |recipe: &Self| -> BTreeMap<String, String> { recipe.variables().into_iter().collect() };
        let (own, others) = (secrets(self), secrets(other));
        !alone(self)
            && !alone(other)
            && self.ids().is_disjoint(&other.ids())
            && all(self).iter().all(|one| all(other).iter().all(|two| apart(one, two)))
            && own.iter().all(|(name, value)| others.get(name).is_none_or(|other| other == value))
            && self.secret_files().iter().all(|(name, value)| other.secret_files().get(name).is_none_or(|v| v == value))
    }

    fn secret(&self, name: &str) -> String {
        match self.row.secrets.get(name) {
            Some(value) => content(value),
            None => format!("secret-of-{}", name.to_ascii_lowercase()),
        }
    }

    /// The variables that it refers to.
    fn variables(&self) -> Vec<(String, String)> {
        let mut names = BTreeSet::new();
        walk(&self.document, &mut |key, text| {
            if key == "env" {
                names.insert(text.to_owned());
            }
        });
        names.into_iter().map(|name| (name.clone(), self.secret(&name))).collect()
    }

    /// The files of secrets that it refers to, and what is in them.
    fn secret_files(&self) -> BTreeMap<String, String> {
        let mut paths = BTreeSet::new();
        walk(&self.document, &mut |_, text| {
            if text.starts_with("/run/secrets/") || text.starts_with("/var/run/secrets/") {
                paths.insert(text.to_owned());
            }
        });
        let content = |path: &String| {
            let name = path.rsplit('/').next().unwrap();
            self.secret(if self.row.secrets.contains_key(path) { path } else { name })
        };
        paths.into_iter().map(|path| (path.clone(), content(&path))).collect()
    }

    /// Writes these files into a folder, and names them in a text in place of the recipe's own.
    fn with_files_in(&self, folder: &Path, text: String) -> String {
        let mut files: Vec<_> = self.secret_files().into_iter().collect();
        // One path may be the beginning of another.
        files.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        files.into_iter().fold(text, |text, (path, content)| {
            let own = folder.join(path.replace('/', "_"));
            std::fs::write(&own, content).unwrap();
            text.replace(&path, own.to_str().unwrap())
        })
    }

    /// What it looks for by itself.
    fn surroundings(&self, folder: &Path) -> BTreeMap<String, String> {
        for (name, content) in &self.row.files {
            std::fs::write(folder.join(name), content).unwrap();
        }
        let own = |value: &String| value.replace("FOLDER", folder.to_str().unwrap());
        let all = self.row.environment.iter().map(|(name, value)| (name.clone(), own(value)));
        self.variables().into_iter().chain(all).collect()
    }
}

/// A text, or the file below `tests/` that it names.
fn content(text: &str) -> String {
    if text.starts_with("vectors/") {
        return std::fs::read_to_string(root().join("tests").join(text)).unwrap();
    }
    text.to_owned()
}

/// Every text of a document, with the key it stands at.
fn walk(value: &Value, found: &mut impl FnMut(&str, &str)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) => found(key, text),
                    value => walk(value, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| match value {
            Value::String(text) => found("", text),
            value => walk(value, found),
        }),
        _ => {}
    }
}

/// Whether a host pattern covers a name.
fn covers(pattern: &str, name: &str) -> bool {
    pattern.strip_prefix('*').is_some_and(|suffix| name.trim_start_matches('*').ends_with(suffix))
}

/// Protocol, host and port of `METHOD URL`.
fn place(request: &str) -> (String, String, u16) {
    let url = url::Url::parse(request.split_once(' ').unwrap().1).unwrap();
    let port = url.port_or_known_default().unwrap();
    (url.scheme().to_owned(), url.host_str().unwrap().to_owned(), port)
}

/// As it arrives: method and target.
fn head(request: &str) -> (String, String) {
    let (method, url) = request.split_once(' ').unwrap();
    let url = url::Url::parse(url).unwrap();
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    (method.to_owned(), format!("{}{query}", url.path()))
}

/// `…` in a pattern stands for anything, `base64(x)` for x in base64.
fn matches(pattern: &str, text: &str) -> bool {
    if let Some((before, rest)) = pattern.split_once("base64(") {
        use base64::Engine;
        let (plain, after) = rest.rsplit_once(')').unwrap();
        let encoded = base64::engine::general_purpose::STANDARD.encode(plain);
        return matches(&format!("{before}{encoded}{after}"), text);
    }
    match pattern.split_once('…') {
        None => pattern == text,
        Some((before, after)) => {
            let Some(rest) = text.strip_prefix(before) else { return false };
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| matches(after, &rest[at..]))
        }
    }
}

/// What the vendors' servers heard, and how far each row has come.
#[derive(Default)]
struct Vendors {
    rows: Vec<(String, Row)>,
    heard: Mutex<HashMap<usize, Vec<Seen>>>,
    strangers: Mutex<Vec<String>>,
}

impl Vendors {
    fn answer(&self, seen: &Seen) -> Answer {
        let authority = seen.header("host").unwrap_or_default().to_owned();
        let host = authority.split(':').next().unwrap_or_default();
        let of_host = |row: &Row| {
            let requests = row.token.iter().map(|exchange| &exchange.request).chain([&row.call.request]);
            requests.into_iter().any(|request| place(request).1 == host)
        };
        let Some(index) = self.rows.iter().position(|(_, row)| of_host(row)) else {
            self.strangers.lock().unwrap().push(authority);
            return text(599, "nobody");
        };
        let row = &self.rows[index].1;
        let mut heard = self.heard.lock().unwrap();
        let heard = heard.entry(index).or_default();
        let number = heard.len();
        heard.push(seen.clone());
        let mut answer = match row.token.get(number) {
            Some(exchange) => {
                let body = exchange.answer.clone();
                let body = body.unwrap_or_else(|| json!({ "access_token": "the-token", "expires_in": 3600 }));
                let body = body.as_str().map_or_else(|| body.to_string(), content);
                with(text(exchange.status, &body), exchange.answer_headers.clone())
            }
            None => match row.call.challenge.nth(number - row.token.len()) {
                Some(challenge) => with(text(401, ""), challenge),
                None => text(200, "{}"),
            },
        };
        answer.headers_mut().entry("content-type").or_insert("application/json".parse().unwrap());
        answer
    }
}

fn with(mut answer: Answer, headers: Headers) -> Answer {
    let pairs = match headers {
        Headers::Map(map) => map.into_iter().collect(),
        Headers::Pairs(pairs) => pairs,
    };
    for (name, value) in pairs {
        answer.headers_mut().append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    answer
}

/// What every client sends, and what frames a message.
const USUAL: [&str; 9] = [
    "host",
    "accept",
    "accept-encoding",
    "user-agent",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "cookie",
];

fn compare_headers(what: &str, seen: &Seen, expected: &BTreeMap<String, Option<String>>, wrong: &mut Vec<String>) {
    for (name, pattern) in expected {
        match (seen.header(name), pattern) {
            (Some(value), Some(pattern)) if matches(pattern, value) => {}
            (None, None) => {}
            (value, pattern) => wrong.push(format!("{what}: {name} is {value:?} and not {pattern:?}")),
        }
    }
}

fn compare_request(what: &str, seen: &Seen, request: &str, target: Option<&str>, wrong: &mut Vec<String>) {
    let (method, own) = head(request);
    let target = target.unwrap_or(&own);
    if seen.method.as_str() != method || !matches(target, &seen.target) {
        wrong.push(format!("{what}: {} {} and not {method} {target}", seen.method, seen.target));
    }
    let (_, host, _) = place(request);
    if seen.header("host").is_none_or(|named| named.split(':').next() != Some(&host)) {
        wrong.push(format!("{what}: at {:?} and not {host}", seen.header("host")));
    }
}

fn compare_jwt(what: &str, token: &str, jwt: &Jwt, wrong: &mut Vec<String>) {
    use base64::Engine;
    let read = |part: Option<&str>| -> Option<Value> {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part?).ok()?;
        serde_json::from_slice(&bytes).ok()
    };
    let mut parts = token.split('.');
    let (Some(header), Some(claims)) = (read(parts.next()), read(parts.next())) else {
        return wrong.push(format!("{what}: {token} is no JWT"));
    };
    for (expected, got) in [(&jwt.header, &header), (&jwt.claims, &claims)] {
        for (name, value) in expected {
            let same = match (value, &got[name]) {
                (Value::String(pattern), Value::String(text)) => matches(pattern, text),
                (value, got) => value == got,
            };
            if !same {
                wrong.push(format!("{what}: {name} of the JWT is {} and not {value}", got[name]));
            }
        }
    }
    for name in &jwt.without {
        if claims.get(name).is_some() {
            wrong.push(format!("{what}: the JWT has {name}"));
        }
    }
    let lived = claims["exp"].as_u64().zip(claims["iat"].as_u64()).map(|(exp, iat)| exp.saturating_sub(iat));
    if jwt.longest.is_some() && lived.zip(jwt.longest).is_none_or(|(lived, longest)| lived > longest) {
        wrong.push(format!("{what}: the JWT lives {lived:?} s and not at most {:?}", jwt.longest));
    }
}

fn compare_exchange(what: &str, seen: &Seen, exchange: &Exchange, wrong: &mut Vec<String>) {
    compare_request(what, seen, &exchange.request, None, wrong);
    compare_headers(what, seen, &exchange.headers, wrong);
    let fields: BTreeMap<String, String> = url::form_urlencoded::parse(&seen.body).into_owned().collect();
    let kind = exchange.form.as_ref().map(|_| "application/x-www-form-urlencoded");
    let kind = kind.or(exchange.json.as_ref().map(|_| "application/json"));
    if kind.is_some() && seen.header("content-type").map(|own| own.split(';').next().unwrap_or_default()) != kind {
        wrong.push(format!("{what}: the content type is {:?} and not {kind:?}", seen.header("content-type")));
    }
    if let Some(form) = &exchange.form {
        let same = form.len() == fields.len()
            && form.iter().all(|(name, pattern)| {
                let field = fields.get(name);
                field.is_some_and(|field| pattern.as_ref().is_none_or(|pattern| matches(pattern, field)))
            });
        if !same {
            wrong.push(format!("{what}: the form is {fields:?} and not {form:?}"));
        }
        // A secret that stands in the form must stand nowhere else.
        if !exchange.headers.contains_key("authorization") && seen.header("authorization").is_some() {
            wrong.push(format!("{what}: it has an Authorization header"));
        }
    }
    if let Some(document) = &exchange.json {
        let got: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        if !same_json(document, &got) {
            wrong.push(format!("{what}: the body is {got} and not {document}"));
        }
    }
    if let Some(jwt) = &exchange.jwt {
        let token = fields.get(&jwt.field).cloned().or_else(|| seen.header(&jwt.field).map(bearer));
        compare_jwt(what, &token.unwrap_or_default(), jwt, wrong);
    }
}

/// `null` in what is expected stands for anything.
fn same_json(expected: &Value, got: &Value) -> bool {
    match (expected, got) {
        (Value::Null, got) => !got.is_null(),
        (Value::String(pattern), Value::String(text)) => matches(pattern, text),
        (Value::Object(expected), Value::Object(got)) => {
            expected.len() == got.len()
                && expected.iter().all(|(name, value)| got.get(name).is_some_and(|got| same_json(value, got)))
        }
        (expected, got) => expected == got,
    }
}

fn bearer(value: &str) -> String {
    value.rsplit(' ').next().unwrap_or_default().to_owned()
}

fn compare(name: &str, row: &Row, heard: &[Seen], wrong: &mut Vec<String>) {
    let count = row.token.len() + 1 + (0..).take_while(|index| row.call.challenge.nth(*index).is_some()).count();
    if heard.len() != count {
        let requests: Vec<_> = heard.iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect();
        return wrong.push(format!("{name}: {count} requests were to arrive: {requests:?}"));
    }
    for (number, (exchange, seen)) in row.token.iter().zip(heard).enumerate() {
        compare_exchange(&format!("{name}: token request {}", number + 1), seen, exchange, wrong);
    }
    for seen in &heard[row.token.len()..count - 1] {
        compare_headers(&format!("{name}: what is sent first"), seen, &row.call.opening, wrong);
        // NTLM proves a connection, and its first leg is the head alone; digest's is the request as it is.
        if !seen.body.is_empty() && row.call.opening.values().any(Option::is_some) {
            wrong.push(format!("{name}: a body is sent before the server has asked"));
        }
    }
    let (call, seen) = (&row.call, &heard[count - 1]);
    compare_request(name, seen, &call.request, call.target.as_deref(), wrong);
    compare_headers(name, seen, &call.headers, wrong);
    for header in seen.headers.keys().map(http::HeaderName::as_str) {
        let known = USUAL.contains(&header) || call.send.keys().any(|sent| sent.eq_ignore_ascii_case(header));
        if !known && !call.headers.keys().any(|expected| expected.eq_ignore_ascii_case(header)) {
            wrong.push(format!("{name}: {header} is there and in no documentation"));
        }
    }
    let pairs = seen.header("cookie").into_iter().flat_map(|cookie| cookie.split("; "));
    let cookies: BTreeMap<String, String> =
        pairs.filter_map(|pair| pair.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect();
    if cookies != call.cookies {
        wrong.push(format!("{name}: the cookies are {cookies:?} and not {:?}", call.cookies));
    }
    if let Some(jwt) = &call.jwt {
        compare_jwt(name, &seen.header("authorization").map(bearer).unwrap_or_default(), jwt, wrong);
    }
}

/// Recipes that one proxy can have all at once.
fn groups(recipes: Vec<Recipe>) -> Vec<Vec<Recipe>> {
    let mut groups: Vec<Vec<Recipe>> = Vec::new();
    for recipe in recipes {
        match groups.iter_mut().find(|group| group.iter().all(|other| recipe.goes_with(other))) {
            Some(group) => group.push(recipe),
            None => groups.push(vec![recipe]),
        }
    }
    groups
}

/// The recipes of a group as one configuration, with every host on one of the two servers.
fn configuration(group: &[Recipe], https: &Origin, http: &Origin) -> String {
    let mut document = group[0].document.clone();
    for list in ["credentials", "bindings"] {
        document[list] = group.iter().flat_map(|recipe| recipe.entries(list)).cloned().collect();
    }
    let mut resolve = Map::new();
    for (protocol, host, port) in group.iter().flat_map(Recipe::places) {
        let origin = if protocol == "https" { https } else { http };
        resolve.insert(format!("{host}:{port}"), origin.address.to_string().into());
    }
    for (host, port) in group.iter().flat_map(twins) {
        resolve.insert(format!("{host}:{port}"), https.address.to_string().into());
    }
    document["listeners"] = json!({ "forward": [{ "address": "127.0.0.1:0" }] });
    document["upstream"]["allow_addresses"] = json!(["127.0.0.0/8"]);
    document["upstream"]["ca_file"] = json!("FOLDER/origin.pem");
    document["upstream"]["resolve"] = resolve.into();
    document["tokens"] = json!({ "directory": "FOLDER/tokens" });
    let document = document.as_object().unwrap();
    document.iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
}

/// Hosts that a recipe does not name, however much they look like those that it names.
fn twins(recipe: &Recipe) -> Vec<(String, u16)> {
    let (_, host, port) = place(&recipe.row.call.request);
    let mut twins = vec![format!("{host}.evil.test")];
    let beside = format!("evil-{host}");
    if !recipe.hosts().iter().any(|pattern| covers(pattern, &beside)) && host.contains('.') {
        twins.push(beside);
    }
    twins.into_iter().map(|twin| (twin, port)).collect()
}

async fn go_through(group: Vec<Recipe>, root: &Root) -> Vec<String> {
    let vendors = Arc::new(Vendors {
        rows: group.iter().map(|recipe| (recipe.name.clone(), recipe.row.clone())).collect(),
        ..Vendors::default()
    });
    let names: BTreeSet<String> = group.iter().flat_map(Recipe::places).map(|(_, host, _)| host).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (one, other) = (Arc::clone(&vendors), Arc::clone(&vendors));
    let https = Origin::https_with(root, &names, &["http/1.1"], move |seen| one.answer(seen)).await;
    let http = Origin::http_with(move |seen| other.answer(seen)).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("origin.pem"), root.pem()).unwrap();
    let config = configuration(&group, &https, &http);
    let config = group.iter().fold(config, |text, recipe| recipe.with_files_in(folder.path(), text));
    let variables: BTreeMap<String, String> =
        group.iter().flat_map(|recipe| recipe.surroundings(folder.path())).collect();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let proxy = Proxy::start_program(&crate::support::binary(), folder, &config, &variables, |_| {});
    let client = proxy.client();
    let mut wrong = Vec::new();
    for (index, recipe) in group.iter().enumerate() {
        let (name, call) = (&recipe.name, &recipe.row.call);
        let (method, url) = call.request.split_once(' ').unwrap();
        let mut request = client.request(method.parse().unwrap(), url).body(call.body.clone());
        for (name, value) in &call.send {
            request = request.header(name, value);
        }
        match request.send().await {
            Err(error) => wrong.push(format!("{name}: {error:?}")),
            Ok(answer) if answer.status() != 200 => {
                wrong.push(format!("{name}: {} {}", answer.status(), answer.text().await.unwrap_or_default()));
            }
            Ok(_) => {
                let heard = vendors.heard.lock().unwrap().get(&index).cloned().unwrap_or_default();
                compare(name, &recipe.row, &heard, &mut wrong);
            }
        }
        let before: usize = vendors.heard.lock().unwrap().values().map(Vec::len).sum();
        for (host, port) in twins(recipe) {
            for named in ["".to_owned(), format!("Countersign-Credential: {}\r\n", recipe.ids().first().unwrap())] {
                let head = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{named}\r\n");
                let answer = raw(&proxy.forward(), head.as_bytes());
                if answer.status() != 403 || !["unbound", "destination_forbidden"].contains(&&*answer.code()) {
                    wrong.push(format!("{name}: {host} was not refused: {}", answer.text));
                }
            }
        }
        let after: usize = vendors.heard.lock().unwrap().values().map(Vec::len).sum();
        if before != after {
            wrong.push(format!("{name}: something arrived for a host that is not named"));
        }
    }
    wrong.extend(vendors.strangers.lock().unwrap().iter().map(|host| format!("a request arrived for {host}")));
    drop(proxy);
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_through_each_recipe_arrives_as_its_vendor_documents() {
    let only = std::env::var("COUNTERSIGN_RECIPE").ok();
    let mut recipes = recipes();
    recipes.retain(|recipe| only.as_ref().is_none_or(|only| *only == recipe.name));
    let count = recipes.len();
    let root = Arc::new(Root::new());
    let groups = groups(recipes);
    let running = groups.len();
    // As many at once as a small machine bears.
    let gate = Arc::new(tokio::sync::Semaphore::new(3));
    let tasks: Vec<_> = groups
        .into_iter()
        .map(|group| {
            let (gate, root) = (Arc::clone(&gate), Arc::clone(&root));
            tokio::spawn(async move {
                let _turn = gate.acquire().await.unwrap();
                go_through(group, &root).await
            })
        })
        .collect();
    let mut wrong = Vec::new();
    for task in tasks {
        wrong.extend(task.await.unwrap());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    measured(&format!("{count} recipes went through {running} proxies and arrived as their vendors document"));
}

/// Where a pattern covers names that strangers cannot have.
const PATTERNS: [&str; 2] = ["*.amazonaws.com", "*.oraclecloud.com"];

/// What a host has in it that stands for somebody's own, and may be a stranger's.
const PLACEHOLDERS: [&str; 5] = ["example", "instance", "your-", "my", "abc"];

#[test]
fn every_recipe_says_what_it_is_names_its_hosts_and_stands_in_the_table() {
    let readme = std::fs::read_to_string(root().join("config/recipes/README.md")).unwrap();
    let recipes = recipes();
    for Recipe { name, text, row, .. } in &recipes {
        let mut lines = text.lines();
        assert!(
            lines.next().is_some_and(|line| line.starts_with("# ") && line.contains(": ")),
            "{name}: its first line"
        );
        let vendor = lines.next().and_then(|line| line.strip_prefix("# Vendor documentation: "));
        assert!(vendor.is_some_and(|page| page.starts_with("https://")), "{name}: the vendor's page");
        assert!(row.source.starts_with("https://"), "{name}: the row's source");
        assert!(lines.next().is_some_and(|line| line.starts_with("# Example call: ")), "{name}: an example call");
        let listed = format!("({name}.yaml)");
        assert_eq!(readme.matches(&listed).count(), 1, "{name} stands once in config/recipes/README.md");
        let line = readme.lines().find(|line| line.contains(&listed)).unwrap();
        let seen = text.lines().filter_map(|line| line.strip_prefix("# The service sees: ")).count();
        assert!(seen > 0 && line.matches("<br>").count() < seen.max(1) + 1, "{name}: what the service sees");
    }
    for recipe in &recipes {
        for host in recipe.hosts() {
            assert!(!host.contains('*') || PATTERNS.contains(&&*host), "{}: {host}", recipe.name);
            let placeholder = PLACEHOLDERS.iter().any(|part| host.contains(part));
            let told = recipe.text.lines().any(|line| line.starts_with("# Replace "));
            assert!(!placeholder || told, "{}: no line `# Replace …` for {host}", recipe.name);
        }
    }
    let rows: Vec<String> = files("tests/recipes").iter().map(|path| stem(path)).collect();
    let names: Vec<&String> = recipes.iter().map(|recipe| &recipe.name).collect();
    assert_eq!(rows.iter().collect::<Vec<_>>(), names, "a row without a recipe");
    assert!(names.len() >= 86, "{} recipes", names.len());
}

#[test]
fn every_recipe_is_in_order_as_it_stands() {
    let recipes = recipes();
    let failed: Vec<String> = std::thread::scope(|scope| {
        let check = |recipe: &Recipe| {
            let folder = tempfile::tempdir().unwrap();
            let text = recipe.with_files_in(folder.path(), recipe.text.clone());
            let path = folder.path().join("countersign.yaml");
            std::fs::write(&path, text).unwrap();
            let mut command = countersign(&["check", "--config", path.to_str().unwrap()]);
            command.envs(recipe.surroundings(folder.path()));
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            (!output.status.success()).then(|| format!("{}: {said}", recipe.name))
        };
        let halves = recipes.split_at(recipes.len() / 2);
        let tasks =
            [halves.0, halves.1].map(|half| scope.spawn(move || half.iter().filter_map(check).collect::<Vec<_>>()));
        tasks.into_iter().flat_map(|task| task.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_pattern_stands_for_anything_only_where_it_says_so() {
    assert!(matches("Bearer …", "Bearer x") && matches("a…c…", "abcd") && matches("…", ""));
    assert!(matches("Basic base64(a:b)", "Basic YTpi") && !matches("Basic base64(a:b)", "Basic YTpj"));
    assert!(!matches("Bearer …", "bearer x") && !matches("a…c", "abd") && !matches("abc", "abcd"));
    assert!(covers("*.test", "a.test") && !covers("*.test", "test") && !covers("a.test", "a.test"));
    assert!(same_json(&json!({"a": null}), &json!({"a": 1})) && !same_json(&json!({"a": null}), &json!({})));
}

#[test]
fn what_arrives_otherwise_is_seen() {
    let row: Row = serde_saphyr::from_str(
        "source: https://vendor.test/\ntoken: [{ request: POST https://login.test/token, form: { a: b } }]\n\
         call: { request: \"GET https://api.test/v1\", headers: { x-key: k, authorization: ~ }, cookies: { c: d } }",
    )
    .unwrap();
    let seen = |method: &str, target: &str, headers: &[(&str, &str)], body: &'static str| {
        let mut request = http::Request::builder().method(method).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let target = target.to_owned();
        Seen { method: parts.method, target, version: parts.version, headers: parts.headers, body: body.into() }
    };
    let form = ("content-type", "application/x-www-form-urlencoded");
    let token = || seen("POST", "/token", &[("host", "login.test"), form], "a=b");
    let right = [("host", "api.test"), ("x-key", "k"), ("cookie", "c=d")];
    let with = |more: &[(&str, &str)]| seen("GET", "/v1", &[&right, more].concat(), "");
    let without = |name: &str| {
        let left: Vec<_> = right.into_iter().filter(|(own, _)| *own != name).collect();
        seen("GET", "/v1", &left, "")
    };
    let wrong = |heard: &[Seen]| {
        let mut wrong = Vec::new();
        compare("it", &row, heard, &mut wrong);
        !wrong.is_empty()
    };
    assert!(!wrong(&[token(), with(&[])]));
    for call in [
        with(&[("x-further", "1")]),
        with(&[("authorization", "Bearer k")]),
        without("x-key"),
        without("cookie"),
        without("host"),
        seen("POST", "/v1", &right, ""),
        seen("GET", "/v1?x-key=k", &right, ""),
        seen("GET", "/v1", &[("host", "api.test"), ("x-key", "Bearer k"), ("cookie", "c=d")], ""),
    ] {
        assert!(wrong(&[token(), call.clone()]), "{call:?}");
    }
    let elsewhere = seen("POST", "/token", &[("host", "api.test"), form], "a=b");
    let more = seen("POST", "/token", &[("host", "login.test"), form], "a=b&c=d");
    let plain = seen("POST", "/token", &[("host", "login.test"), ("content-type", "text/plain")], "a=b");
    for login in [elsewhere, more, plain, seen("GET", "/token", &[("host", "login.test"), form], "a=b")] {
        assert!(wrong(&[login.clone(), with(&[])]), "{login:?}");
    }
    assert!(wrong(&[with(&[])]) && wrong(&[token(), token(), with(&[])]));
}
