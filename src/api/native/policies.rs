//! Policy templates, applied policies and their runs.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::documents::{ChangeDocument, Source};
use crate::api::error::ApiError;
use crate::api::web::{Asked, Asking, At, Document, Problem, typed};
use crate::api::{Api, Applied, NewRun, PolicyInput, RunReport, time};
use crate::policy::{Options, Template, Verdicts};
use crate::store::{AppliedPolicyRecord, PolicyBinding, PolicyPassage, Role, RunRecord, RunUse};

/// Accounts that one request applies a template to.
const ACCOUNTS: usize = 1000;
/// Runs in a list when nothing is said, and at most.
const RUNS: u32 = 100;
const MOST_RUNS: u32 = 1000;

/// A template as it comes in: the text of a policy template, or a declaration.
fn template(value: &Value) -> Template {
    match value {
        Value::String(text) => Template::read(Path::new(""), text.as_bytes()),
        other => Template::read(Path::new("template.json"), other.to_string().as_bytes()),
    }
}

/// `90m`, or seconds.
fn lifetime<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Seconds(u64),
        Text(String),
    }
    let wrong = || serde::de::Error::custom("write `90m`, `3600s`, or seconds as a number");
    let written = Option::<Written>::deserialize(deserializer).map_err(|_| wrong())?;
    let read = |written| match written {
        Written::Seconds(seconds) => Ok(Duration::from_secs(seconds)),
        Written::Text(text) => humantime::parse_duration(&text).map_err(|_| wrong()),
    };
    written.map(read).transpose()
}

/// A template to look at.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"template": "credentials \"auth_aws\" do\n  schemes \"aws\", \"aws_sts\"\n  label \"AWS\"\n  tags \"provider=aws\"\nend\n"}))]
pub(super) struct InspectBody {
    /// The text of a policy template, or a declaration: a list of `{name, schemes, label, description, tags}`.
    template: Value,
}

/// Which credentials fit a template?
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"template": [{"name": "auth_jira", "schemes": ["basic"], "label": "Jira"}]}))]
pub(super) struct MatchBody {
    /// The text of a policy template, or a declaration: a list of `{name, schemes, label, description, tags}`.
    template: Value,
    /// Parameters of the template, which its hosts may depend on.
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    /// Whatever the tags are. The scheme is never dropped.
    #[serde(default)]
    all: bool,
}

/// A template that is to be applied.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"template": [{"name": "auth_jira", "schemes": ["basic"], "label": "Jira"}], "credentials": {"auth_jira": "jira"}, "dryRun": true}))]
pub(super) struct ApplyBody {
    /// To which accounts, where the address names none.
    #[serde(default)]
    accounts: Vec<String>,
    /// Its id; made when absent.
    id: Option<String>,
    /// What people call it; the template's own name when absent.
    name: Option<String>,
    /// The text of a policy template, or a declaration: a list of `{name, schemes, label, description, tags}`.
    template: Value,
    /// Each block's credential; `{org_id}` and `{project_id}` in an id are those of the account.
    #[serde(default)]
    credentials: BTreeMap<String, String>,
    /// Parameters of the template.
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    /// The credentials' own hosts with every method, not only what the template uses.
    #[serde(default)]
    loose: bool,
    /// Tags that differ are not mentioned.
    #[serde(default)]
    all: bool,
    /// Secrets may travel unencrypted where the template sends its requests so; an admin's to set.
    #[serde(default, alias = "allow_cleartext")]
    allow_cleartext: bool,
    /// The organization, where an account's name does not tell it.
    #[serde(alias = "org_id")]
    org_id: Option<String>,
    /// Say what would be made, and make nothing.
    #[serde(default, alias = "dry_run")]
    dry_run: bool,
}

impl ApplyBody {
    fn input(self) -> PolicyInput {
        PolicyInput {
            id: self.id,
            name: self.name,
            template: template(&self.template),
            credentials: self.credentials,
            parameters: self.parameters,
            options: Options { loose: self.loose, all: self.all, allow_cleartext: self.allow_cleartext },
            org: self.org_id,
        }
    }
}

/// Which credentials fit a block, and why the others do not.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BlockDocument {
    block: String,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    verdicts: Verdicts,
}

/// Which credentials fit a template.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MatchDocument {
    blocks: Vec<BlockDocument>,
    /// What of the template could not be read.
    #[schema(value_type = Vec<Object>)]
    errors: Vec<crate::policy::Issue>,
}

/// An applied policy.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PolicyDocument {
    account: String,
    /// Absent in what would be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    name: String,
    /// Each block's credential.
    credentials: BTreeMap<String, String>,
    /// The same as it was asked for, where it had placeholders.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    asked: BTreeMap<String, String>,
    parameters: BTreeMap<String, String>,
    loose: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<ChangeDocument>,
}

/// What a run may use of one credential, by one block.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PolicyBindingDocument {
    block: String,
    credential: String,
    hosts: Vec<String>,
    /// What of these hosts is meant; empty for all.
    shapes: Vec<String>,
    /// Empty for all.
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_number: Option<String>,
    allow_cleartext: bool,
    /// Only when a request names the block or the credential.
    only_named: bool,
}

impl From<PolicyBinding> for PolicyBindingDocument {
    fn from(binding: PolicyBinding) -> Self {
        Self {
            block: binding.block,
            credential: binding.credential,
            hosts: binding.hosts,
            shapes: binding.shapes,
            methods: binding.methods,
            account_number: binding.account_number,
            allow_cleartext: binding.allow_cleartext,
            only_named: binding.only_named,
        }
    }
}

/// What a run may call without a credential.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PassageDocument {
    hosts: Vec<String>,
    /// What of these hosts is meant; empty for all.
    shapes: Vec<String>,
    /// Empty for all.
    methods: Vec<String>,
}

impl From<PolicyPassage> for PassageDocument {
    fn from(passage: PolicyPassage) -> Self {
        Self { hosts: passage.hosts, shapes: passage.shapes, methods: passage.methods }
    }
}

/// An applied policy with what its runs may use.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct WholePolicyDocument {
    #[serde(flatten)]
    policy: PolicyDocument,
    /// What a run may use, and where.
    bindings: Vec<PolicyBindingDocument>,
    /// What a run may call without a credential.
    passages: Vec<PassageDocument>,
    /// What else to know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    /// What the template declares.
    #[schema(value_type = Object)]
    template: Value,
}

impl PolicyDocument {
    fn of(record: &AppliedPolicyRecord) -> Self {
        Self {
            account: record.account.clone(),
            id: Some(record.id.clone()),
            name: record.content.name.clone(),
            credentials: record.content.credentials.clone(),
            asked: record.content.asked.clone(),
            parameters: record.content.parameters.clone(),
            loose: record.content.loose,
            created: Some((&record.created).into()),
        }
    }
}

impl WholePolicyDocument {
    fn of(record: AppliedPolicyRecord, notes: Vec<String>) -> Self {
        let policy = PolicyDocument::of(&record);
        let content = record.content;
        Self::with(policy, content.bindings, content.passages, notes, content.template)
    }

    fn with(
        policy: PolicyDocument,
        bindings: Vec<PolicyBinding>,
        passages: Vec<PolicyPassage>,
        notes: Vec<String>,
        template: Value,
    ) -> Self {
        let bindings = bindings.into_iter().map(Into::into).collect();
        Self { policy, bindings, passages: passages.into_iter().map(Into::into).collect(), notes, template }
    }

    fn applied(account: &str, applied: Applied) -> Self {
        let Applied { id, content, record, notes } = applied;
        if let Some(record) = record {
            return Self::of(record, notes);
        }
        let policy = PolicyDocument {
            account: account.to_owned(),
            id: (!id.is_empty()).then_some(id),
            name: content.name,
            credentials: content.credentials,
            asked: content.asked,
            parameters: content.parameters,
            loose: content.loose,
            created: None,
        };
        Self::with(policy, content.bindings, content.passages, notes, content.template)
    }
}

/// The applied policies of an account.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PoliciesDocument {
    policies: Vec<PolicyDocument>,
}

/// What became of one account.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AppliedDocument {
    account: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<WholePolicyDocument>,
    /// Why it was not applied here.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// What became of each account.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AppliedToManyDocument {
    results: Vec<AppliedDocument>,
}

/// How a run is to be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(example = json!({"lifetime": "10m"}))]
pub(super) struct RunBody {
    /// How long it may last, such as `90m`, or seconds; an hour when absent, a day at most.
    #[serde(default, deserialize_with = "lifetime")]
    #[schema(value_type = Option<String>)]
    lifetime: Option<Duration>,
}

/// A run.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct RunDocument {
    account: String,
    id: String,
    policy: String,
    created: ChangeDocument,
    #[schema(format = DateTime)]
    expires_at: String,
    /// When it was ended before that, and by whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<ChangeDocument>,
    /// Whether its token still proves it.
    lives: bool,
}

impl RunDocument {
    fn of(run: RunRecord, lives: bool) -> Self {
        Self {
            created: (&run.created).into(),
            expires_at: time::text(run.expires_at),
            ended: run.ended.as_ref().map(Into::into),
            account: run.account,
            id: run.id,
            policy: run.policy,
            lives,
        }
    }
}

/// A run that has just begun; its token is shown this once.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewRunDocument {
    #[serde(flatten)]
    run: RunDocument,
    /// The name that it calls by.
    caller: String,
    token: String,
    /// The proxy with the name and the token, as clients take it; absent where no proxy listens here.
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy_url: Option<String>,
    /// The certificate that the run has to trust.
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_certificate: Option<String>,
}

impl From<NewRun> for NewRunDocument {
    fn from(new: NewRun) -> Self {
        let token = new.token.expose_str().unwrap_or_default().to_owned();
        let url =
            |place: &crate::api::ProxyPlace| format!("{}://{}:{token}@{}", place.scheme, new.caller, place.address);
        Self {
            proxy_url: new.proxy.as_ref().map(url),
            ca_certificate: new.proxy.map(|place| place.certificate),
            run: RunDocument::of(new.run, true),
            caller: new.caller,
            token,
        }
    }
}

/// The runs of an applied policy, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RunsDocument {
    runs: Vec<RunDocument>,
}

/// Calls of one kind.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CallsDocument {
    #[serde(skip_serializing_if = "Option::is_none")]
    block: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential: Option<String>,
    /// With `http://` where it was unencrypted. Absent where a run called more hosts than are told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    /// Absent with the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<String>,
    /// `used`, `passed` without a credential, or the code with which they were refused.
    outcome: String,
    count: i64,
    #[schema(format = DateTime)]
    last_used: String,
}

impl From<RunUse> for CallsDocument {
    fn from(one: RunUse) -> Self {
        Self {
            block: Some(one.block).filter(|block| !block.is_empty()),
            credential: Some(one.credential).filter(|id| !id.is_empty()),
            host: Some(one.host).filter(|host| !host.is_empty()),
            method: Some(one.method).filter(|method| !method.is_empty()),
            outcome: one.outcome,
            count: one.count,
            last_used: time::text(one.last_used),
        }
    }
}

/// A binding that would have sufficed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct SufficientDocument {
    credential: String,
    hosts: Vec<String>,
    methods: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    allow_cleartext: bool,
    /// Where the credential is declared, and so the binding has to be.
    source: Source,
}

/// What a run did.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReportDocument {
    #[serde(flatten)]
    run: RunDocument,
    policy_name: String,
    /// Calls that went out.
    uses: Vec<CallsDocument>,
    /// Calls that were refused.
    refused: Vec<CallsDocument>,
    /// Blocks whose credential was never used.
    unused: Vec<String>,
    /// The least that would have let it do what it did, as bindings are written.
    sufficient: Vec<SufficientDocument>,
}

impl From<RunReport> for ReportDocument {
    fn from(report: RunReport) -> Self {
        let sufficient = report.sufficient.into_iter().map(|one| SufficientDocument {
            credential: one.credential,
            hosts: one.hosts,
            methods: one.methods,
            allow_cleartext: one.allow_cleartext,
            source: one.origin.into(),
        });
        Self {
            run: RunDocument::of(report.run, report.lives),
            policy_name: report.policy,
            uses: report.uses.into_iter().map(Into::into).collect(),
            refused: report.refused.into_iter().map(Into::into).collect(),
            unused: report.unused,
            sufficient: sufficient.collect(),
        }
    }
}

/// Say what a policy template declares
#[utoipa::path(post, path = "/v1/policies/inspect", tag = "policies", operation_id = "inspectPolicy",
    request_body = InspectBody, responses((status = 200, body = Object)))]
pub(super) async fn inspect(Document(document): Document) -> Result<Json<Template>, Problem> {
    let body: InspectBody = typed(document)?;
    Ok(Json(template(&body.template)))
}

/// Say which credentials of an account fit a template, and why the others do not
#[utoipa::path(post, path = "/v1/accounts/{account}/policies/match", tag = "policies", operation_id = "matchPolicy",
    params(("account" = String, Path)), request_body = MatchBody,
    responses((status = 200, body = MatchDocument)))]
pub(super) async fn judge(
    State(api): State<Api>,
    Asking(principal): Asking,
    At(account): At<String>,
    Document(document): Document,
) -> Result<Json<MatchDocument>, Problem> {
    principal.may(Role::Viewer, &account)?;
    let body: MatchBody = typed(document)?;
    let template = template(&body.template);
    let blocks = api.match_policy(&principal, &account, &template, &body.parameters, body.all).await?.into_iter();
    let blocks = blocks.map(|one| BlockDocument { block: one.block, verdicts: one.verdicts }).collect();
    Ok(Json(MatchDocument { blocks, errors: template.errors }))
}

/// List the applied policies of an account
#[utoipa::path(get, path = "/v1/accounts/{account}/applied-policies", tag = "policies",
    operation_id = "listAppliedPolicies", params(("account" = String, Path)),
    responses((status = 200, body = PoliciesDocument)))]
pub(super) async fn list(
    State(api): State<Api>,
    Asking(principal): Asking,
    At(account): At<String>,
) -> Result<Json<PoliciesDocument>, Problem> {
    let policies = api.applied_policies(&principal, &account).await?;
    Ok(Json(PoliciesDocument { policies: policies.iter().map(PolicyDocument::of).collect() }))
}

async fn applied(
    api: &Api,
    principal: &crate::api::Principal,
    account: &str,
    input: &PolicyInput,
    dry_run: bool,
) -> Result<WholePolicyDocument, ApiError> {
    let applied = match dry_run {
        true => api.propose_policy(principal, account, input).await?,
        false => api.apply_policy(principal, account, input).await?,
    };
    Ok(WholePolicyDocument::applied(account, applied))
}

/// Apply a template to an account
#[utoipa::path(post, path = "/v1/accounts/{account}/applied-policies", tag = "policies",
    operation_id = "applyPolicy", params(("account" = String, Path)), request_body = ApplyBody,
    responses((status = 200, body = WholePolicyDocument, description = "What would be made"),
        (status = 201, body = WholePolicyDocument, headers(("location" = String)))))]
pub(super) async fn apply(
    State(api): State<Api>,
    Asking(principal): Asking,
    At(account): At<String>,
    Document(document): Document,
) -> Result<impl IntoResponse, Problem> {
    principal.may(Role::Viewer, &account)?;
    let body: ApplyBody = typed(document)?;
    if !body.accounts.is_empty() {
        return Err(
            ApiError::unprocessable("accounts", "the address names the account; POST /v1/applied-policies").into()
        );
    }
    let dry_run = body.dry_run;
    let document = applied(&api, &principal, &account, &body.input(), dry_run).await?;
    if dry_run {
        return Ok((StatusCode::OK, None, Json(document)));
    }
    let at = format!("/v1/accounts/{account}/applied-policies/{}", document.policy.id.as_deref().unwrap_or_default());
    Ok((StatusCode::CREATED, Some(AppendHeaders([(header::LOCATION, at)])), Json(document)))
}

/// Apply a template to many accounts; each for itself
#[utoipa::path(post, path = "/v1/applied-policies", tag = "policies", operation_id = "applyPolicyToMany",
    request_body = ApplyBody, responses((status = 200, body = AppliedToManyDocument)))]
pub(super) async fn apply_to_many(
    State(api): State<Api>,
    Asking(principal): Asking,
    Document(document): Document,
) -> Result<Json<AppliedToManyDocument>, Problem> {
    let mut body: ApplyBody = typed(document)?;
    if body.accounts.is_empty() || body.accounts.len() > ACCOUNTS {
        return Err(ApiError::unprocessable("accounts", format!("from 1 to {ACCOUNTS} accounts")).into());
    }
    let (accounts, dry_run) = (std::mem::take(&mut body.accounts), body.dry_run);
    let input = body.input();
    let done = api.apply_to_many(&principal, accounts, &input, dry_run).await.into_iter();
    let results = done.map(|(account, done)| {
        let (policy, error) = match done {
            Ok(applied) => (Some(WholePolicyDocument::applied(&account, applied)), None),
            Err(error) => (None, Some(error.detail)),
        };
        AppliedDocument { account, policy, error }
    });
    let results = results.collect();
    Ok(Json(AppliedToManyDocument { results }))
}

/// Show an applied policy and what its runs may use
#[utoipa::path(get, path = "/v1/accounts/{account}/applied-policies/{id}", tag = "policies",
    operation_id = "showAppliedPolicy", params(("account" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = WholePolicyDocument)))]
pub(super) async fn show(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
) -> Result<Json<WholePolicyDocument>, Problem> {
    let record = api.applied_policy(&principal, &account, &id).await?;
    Ok(Json(WholePolicyDocument::of(record, Vec::new())))
}

/// Remove an applied policy; its runs end
#[utoipa::path(delete, path = "/v1/accounts/{account}/applied-policies/{id}", tag = "policies",
    operation_id = "removeAppliedPolicy", params(("account" = String, Path), ("id" = String, Path)),
    responses((status = 204)))]
pub(super) async fn remove(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
) -> Result<StatusCode, Problem> {
    api.remove_applied_policy(&principal, &account, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Newest {
    /// So many at most; 100 when absent.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// List the runs of an applied policy, the newest first
#[utoipa::path(get, path = "/v1/accounts/{account}/applied-policies/{id}/runs", tag = "policies",
    operation_id = "listRuns", params(("account" = String, Path), ("id" = String, Path), Newest),
    responses((status = 200, body = RunsDocument)))]
pub(super) async fn runs(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
    Asked(newest): Asked<Newest>,
) -> Result<Json<RunsDocument>, Problem> {
    let limit = newest.limit.unwrap_or(RUNS);
    if !(1..=MOST_RUNS).contains(&limit) {
        return Err(ApiError::bad_request(format!("`limit` is from 1 to {MOST_RUNS}")).into());
    }
    let runs = api.runs(&principal, &account, &id, limit).await?.into_iter();
    Ok(Json(RunsDocument { runs: runs.map(|(run, lives)| RunDocument::of(run, lives)).collect() }))
}

/// Begin a run of an applied policy; its token is shown this once
#[utoipa::path(post, path = "/v1/accounts/{account}/applied-policies/{id}/runs", tag = "policies",
    operation_id = "startRun", params(("account" = String, Path), ("id" = String, Path)),
    request_body = Option<RunBody>, responses((status = 201, body = NewRunDocument)))]
pub(super) async fn start(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
    Document(document): Document,
) -> Result<impl IntoResponse, Problem> {
    principal.may(Role::Viewer, &account)?;
    let body: Option<RunBody> = typed(document)?;
    let new = api.start_run(&principal, &account, &id, body.and_then(|body| body.lifetime)).await?;
    Ok((StatusCode::CREATED, Json(NewRunDocument::from(new))))
}

/// Show what a run did, and what would have sufficed for it
#[utoipa::path(get, path = "/v1/accounts/{account}/runs/{id}", tag = "policies", operation_id = "showRun",
    params(("account" = String, Path), ("id" = String, Path)),
    responses((status = 200, body = ReportDocument)))]
pub(super) async fn report(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
) -> Result<Json<ReportDocument>, Problem> {
    Ok(Json(api.run_report(&principal, &account, &id).await?.into()))
}

/// End a run: its token proves nothing from the next request on
#[utoipa::path(delete, path = "/v1/accounts/{account}/runs/{id}", tag = "policies", operation_id = "endRun",
    params(("account" = String, Path), ("id" = String, Path)),
    responses((status = 204)))]
pub(super) async fn end(
    State(api): State<Api>,
    Asking(principal): Asking,
    At((account, id)): At<(String, String)>,
) -> Result<StatusCode, Problem> {
    api.end_run(&principal, &account, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
