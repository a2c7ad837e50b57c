//! What the owner of a role must be told: the account to trust, the external id, the trust policy to paste.

use std::sync::Arc;

use serde_json::json;

use super::{Hop, Settings, Steps, session_name};
use crate::base::Unavailable;
use crate::base::text::hex;
use crate::scheme::{Introduction, Setup};
use crate::token::aws::{Base, CallerIdentity, Role, session_keys};

impl Settings {
    /// Who asks for the first role, and what each role's trust policy must say.
    pub(super) async fn introduction(&self, setup: &Setup<'_>) -> Result<Introduction, Unavailable> {
        let key = setup.outside.state.own_key();
        let generated = self.external_ids(setup).map(|ids| ids.id()).transpose();
        let generated = generated.map_err(|why| Unavailable(format!("external_id: {why}")))?;
        let named = |role: Role| Role { external_id: role.external_id.or_else(|| generated.clone()), ..role };
        let mut introduction = Introduction::default();
        if let Some((path, there)) = key.filter(|_| generated.is_some()) {
            let made = if there { "" } else { ", which was made just now" };
            introduction.notes.push(format!(
                "the external id is derived from the key in {}{made}: `serve` sends the same one only if it uses that key, so \
                 run this in its working directory and as its user, or set `tokens.key`",
                path.display()
            ));
        }
        let mut principal = match self.asks(setup).await {
            Ok(identity) => {
                introduction.facts.push(("account to trust", identity.account.clone()));
                introduction.facts.push(("who asks", identity.arn.clone()));
                let partition = identity.arn.split(':').nth(1).unwrap_or("aws");
                format!("arn:{partition}:iam::{}:root", identity.account)
            }
            Err(why) => {
                introduction.missing.push(format!("the account to trust: {why}"));
                "arn:aws:iam::ACCOUNT-TO-TRUST:root".to_owned()
            }
        };
        if let Some(web) = &self.own.web_identity {
            // The session of that role asks; what it trusts is its identity provider.
            principal.clone_from(&web.role_arn);
        }
        let last = self.own.role().map(named);
        let id = last.as_ref().map_or(generated.clone(), |role| role.external_id.clone());
        // Without one, the role would trust every request of that account: one is proposed.
        let proposed = if id.is_none() && last.is_some() { proposed_id(setup) } else { None };
        if let Some(id) = &proposed {
            introduction.notes.push(format!(
                "no `external_id` is written on the credential, so the role would trust every request of that account; this \
                 one is new: write `external_id: {id}` there, and the trust policy below"
            ));
        }
        let last = last.map(|role| Role { external_id: role.external_id.or_else(|| proposed.clone()), ..role });
        let id = id.or(proposed);
        introduction.facts.extend(id.map(|id| ("external id", id)));
        // Sessions of EKS Pod Identity carry tags of their own.
        let tagged = self.own.is_ambient() && self.own.profile.is_none();
        let mut roles: Vec<Role> = self.own.chain.iter().map(Hop::role).map(named).collect();
        roles.extend(last);
        if roles.is_empty() && self.own.web_identity.is_none() {
            let role = named(Role::new("", session_name(None)));
            introduction.documents.push(("trust policy of the role".into(), trust_policy(&role, &principal, tagged)));
        }
        for role in roles {
            let what = format!("trust policy of {}", role.role_arn);
            introduction.documents.push((what, trust_policy(&role, &principal, tagged)));
            principal.clone_from(&role.role_arn);
        }
        Ok(introduction)
    }

    /// Whose keys ask for the first role.
    async fn asks(&self, setup: &Setup<'_>) -> Result<CallerIdentity, String> {
        let text = |why: Unavailable| why.0;
        let key = self.key(setup).map_err(text)?;
        let mut steps = Steps { setup, settings: self, skew: Arc::default(), handles: Vec::new(), key };
        let asks = self.own.web_identity.as_ref().map(|web| web.role_arn.as_str());
        let role = Role::new(asks.or(self.own.role_arn.as_deref()).unwrap_or("aws"), session_name(None));
        let sts = steps.sts(&role).map_err(text)?;
        let keys = match steps.base().map_err(text)? {
            Base::Fixed(keys) => keys,
            Base::Session(handle) => session_keys(&handle).await.map_err(|failure| failure.detail)?,
        };
        let signing = steps.signing();
        let now = setup.outside.clock.now();
        let identity = signing.timed(sts.host(), now, async |time| sts.caller_identity(&keys, time).await).await;
        identity.map_err(|error| error.failure.detail)
    }
}

/// An external id that nobody has yet.
fn proposed_id(setup: &Setup<'_>) -> Option<String> {
    let mut bytes = [0; 20];
    let filled = setup.outside.random.fill(&mut bytes);
    filled.then(|| format!("countersign-{}", hex(&bytes)))
}

/// What lets a principal assume a role:
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/id_roles_common-scenarios_third-party.html>.
fn trust_policy(role: &Role, principal: &str, tagged: bool) -> serde_json::Value {
    let mut actions = vec!["sts:AssumeRole"];
    actions.extend((tagged || !role.tags.is_empty()).then_some("sts:TagSession"));
    actions.extend(role.source_identity.is_some().then_some("sts:SetSourceIdentity"));
    let mut statement = json!({ "Effect": "Allow", "Principal": { "AWS": principal }, "Action": actions });
    if let Some(id) = &role.external_id {
        statement["Condition"] = json!({ "StringEquals": { "sts:ExternalId": id } });
    }
    json!({ "Version": "2012-10-17", "Statement": [statement] })
}
