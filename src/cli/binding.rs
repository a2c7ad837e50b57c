//! `countersign binding`: which caller may use which credential where.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::client::{Client, Condition, Target, path};
use super::output::{Output, cell, facts, table};
use super::{Context, Failure, ask};

#[derive(Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    target: Target,
    /// The account
    #[arg(long, global = true, value_name = "NAME", default_value = crate::route::DEFAULT_ACCOUNT)]
    account: String,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// List them
    List,
    /// Create one, or replace it
    #[command(after_help = "Example: the caller policy-runner may read from Azure:\n  \
                            countersign binding put azure-read --credential azure-prod --caller policy-runner \\\n    \
                            --host management.azure.com --method GET")]
    Put(Box<Put>),
    /// Remove one: from then on it allows nothing
    Remove {
        /// Its id
        id: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Args)]
struct Put {
    /// Its id within the account
    id: String,
    /// The credential that it lets use
    #[arg(long, value_name = "ID")]
    credential: String,
    /// A caller that may use it; repeat it for several [default: every caller of the account]
    #[arg(long = "caller", value_name = "NAME", value_delimiter = ',')]
    callers: Vec<String>,
    /// A host that it is for [default: those of the credential]
    #[arg(long = "host", value_name = "HOST", value_delimiter = ',')]
    hosts: Vec<String>,
    /// A method [default: all]
    #[arg(long = "method", value_name = "METHOD", value_delimiter = ',')]
    methods: Vec<String>,
    /// A path that it is for, with what is below it [default: all]
    #[arg(long = "path", value_name = "PATH")]
    paths: Vec<String>,
    /// A service of AWS, such as s3 [default: all]
    #[arg(long = "service", value_name = "NAME", value_delimiter = ',')]
    services: Vec<String>,
    /// A region of AWS [default: all]
    #[arg(long = "region", value_name = "NAME", value_delimiter = ',')]
    regions: Vec<String>,
    /// An action of AWS, such as GetObject [default: all]
    #[arg(long = "action", value_name = "NAME", value_delimiter = ',')]
    actions: Vec<String>,
    /// Only for requests that name the credential
    #[arg(long)]
    only_named: bool,
    /// Let the secret travel unencrypted to http:// hosts (administrators)
    #[arg(long)]
    allow_cleartext: bool,
    /// An address range, normally refused, that may be reached (administrators of all accounts)
    #[arg(long = "allow-address", value_name = "CIDR", value_delimiter = ',')]
    allow_addresses: Vec<String>,
}

pub(super) async fn run(context: &Context, arguments: &Arguments) -> Result<u8, Failure> {
    let (account, output) = (arguments.account.as_str(), Output::of(&arguments.target));
    let client = Client::open(context, &arguments.target).await?;
    match &arguments.action {
        Action::List => {
            let bindings = client.all(&path(account, &["bindings"]), "bindings", &[]).await?;
            let keys = ["id", "credential", "callers", "hosts", "methods", "paths"];
            let words = || {
                let rows = bindings.iter().map(|binding| keys.map(|key| cell(binding, key)).into());
                let names = ["ID", "CREDENTIAL", "CALLERS", "HOSTS", "METHODS", "PATHS"];
                table(&names, rows, &format!("there is no binding in account {account}"))
            };
            output.answer(&json!({ "bindings": bindings }), words);
        }
        Action::Put(put) => {
            let at = path(account, &["bindings", &put.id]);
            let reply = client.send(Method::PUT, &at, &put.document(), Condition::None).await?;
            let done = if reply.status == http::StatusCode::CREATED { "created" } else { "replaced" };
            output.done(&reply.body, &format!("{done}\n{}", shown(&reply.body)));
        }
        Action::Remove { id, yes } => {
            ask::confirm(&format!("remove the binding {id} of account {account}?"), *yes)?;
            client.delete(&path(account, &["bindings", id])).await?;
            output.done(&Value::Null, &format!("removed {id}"));
        }
    }
    Ok(0)
}

impl Put {
    fn document(&self) -> Value {
        let mut document = Map::new();
        document.insert("credential".into(), self.credential.clone().into());
        let lists = [
            ("callers", &self.callers),
            ("hosts", &self.hosts),
            ("methods", &self.methods),
            ("paths", &self.paths),
            ("services", &self.services),
            ("regions", &self.regions),
            ("actions", &self.actions),
            ("allowAddresses", &self.allow_addresses),
        ];
        for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            document.insert(key.into(), list.clone().into());
        }
        for (key, set) in [("onlyNamed", self.only_named), ("allowCleartext", self.allow_cleartext)] {
            if set {
                document.insert(key.into(), true.into());
            }
        }
        document.into()
    }
}

fn shown(binding: &Value) -> String {
    let keys = [
        ("id", "id"),
        ("credential", "credential"),
        ("callers", "callers"),
        ("hosts", "hosts"),
        ("methods", "methods"),
        ("paths", "paths"),
        ("services", "services"),
        ("regions", "regions"),
        ("actions", "actions"),
    ];
    facts(&keys.map(|(name, key)| (name, cell(binding, key))))
}
