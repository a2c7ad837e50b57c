//! Which credentials fit a block of a template, how well, and why the others do not.

use std::collections::BTreeMap;

use serde::Serialize;

use super::candidate::Candidate;
use super::declared::{Block, Template};
use super::places::{Places, account_number, at};
use crate::scheme::{Aim, aim};

/// The application that Azure's resource management is in every cloud.
const RESOURCE_MANAGEMENT: &str = "797f4846-ba00-4fd7-ba43-dac1f8f63013";

/// As many hosts as are told of one by one.
const LISTED: usize = 20;

/// How well a credential fits, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rank {
    /// The tags, and every host and audience that the block's uses tell.
    Exact,
    /// The tags; not every host is told or its own.
    Provider,
    /// Only the scheme, and some host at least where any is told.
    Scheme,
}

/// How much of what the block's uses tell is the credential's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cover {
    /// All.
    Fits,
    /// Some.
    Partly,
    /// Nothing is told.
    NotTold,
    /// None.
    No,
}

impl Cover {
    fn of(fits: usize, misses: usize) -> Self {
        match (fits, misses) {
            (0, 0) => Self::NotTold,
            (_, 0) => Self::Fits,
            (0, _) => Self::No,
            _ => Self::Partly,
        }
    }
}

/// A credential that fits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fit {
    /// Its id.
    pub credential: String,
    /// What people call it.
    pub name: String,
    /// Its scheme.
    pub scheme: String,
    /// How well it fits.
    pub rank: Rank,
    /// Of the hosts that the template tells.
    pub hosts: Cover,
    /// Of the hosts that are known to want tokens of their own.
    pub audience: Cover,
    /// What else to know, as sentences.
    pub notes: Vec<String>,
}

/// A credential that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Misfit {
    /// Its id.
    pub credential: String,
    /// What people call it.
    pub name: String,
    /// Its scheme.
    pub scheme: String,
    /// Of the hosts that the template tells.
    pub hosts: Cover,
    /// Of the hosts that are known to want tokens of their own.
    pub audience: Cover,
    /// Everything that differs, as sentences.
    pub reasons: Vec<String>,
}

/// What there is for a block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdicts {
    /// The credentials that fit, best first.
    pub fits: Vec<Fit>,
    /// Every other one.
    pub others: Vec<Misfit>,
}

/// Judges the credentials of an account for a block. With `all` the tags narrow nothing; the scheme always does.
pub fn judge(
    block: &Block,
    candidates: &[Candidate],
    parameters: &BTreeMap<String, String>,
    template: &Template,
    all: bool,
) -> Verdicts {
    let places = Places::of(&block.uses, template, parameters);
    let has_account = !account_number(block, template, parameters).is_empty();
    let mut verdicts = Verdicts::default();
    for candidate in candidates {
        let mut notes = Vec::new();
        if has_account && candidate.accounts.is_empty() {
            notes.push("it assumes no role: it works without an account number only".to_owned());
        }
        match judge_one(block, candidate, &places, all, notes) {
            Ok(fit) => verdicts.fits.push(fit),
            Err(misfit) => verdicts.others.push(misfit),
        }
    }
    verdicts.fits.sort_by(|one, two| (one.rank, &one.credential).cmp(&(two.rank, &two.credential)));
    verdicts.others.sort_by(|one, two| one.credential.cmp(&two.credential));
    verdicts
}

fn judge_one(
    block: &Block,
    candidate: &Candidate,
    places: &Places,
    all: bool,
    mut notes: Vec<String>,
) -> Result<Fit, Misfit> {
    let mut reasons: Vec<String> = candidate.is_out_of_use().into_iter().collect();
    reasons.extend(candidate.differs_in_scheme(block));
    let tags = candidate.differs_in_tags(block);
    let untagged = tags.is_empty();
    if all {
        notes.extend(tags)
    } else {
        reasons.extend(tags)
    }
    let (hosts, audience, lacks) = cover(candidate, places);
    if hosts == Cover::No {
        reasons.extend(lacks);
    } else {
        notes.extend(lacks);
    }
    let (credential, name, scheme) = (candidate.id.clone(), candidate.name.clone(), candidate.scheme.clone());
    if !reasons.is_empty() {
        return Err(Misfit { credential, name, scheme, hosts, audience, reasons });
    }
    let untold = places.untold();
    if !untold.is_empty() {
        notes.push(format!("{}: the host is not told", at(&untold)));
    }
    notes.extend(places.wrong.iter().map(|wrong| format!("line {}: {}", wrong.line, wrong.why)));
    if serves_every_subscription(candidate, places) {
        notes.push("one credential serves every subscription that it has rights to".into());
    }
    let rank = match (untagged, hosts) {
        (true, Cover::Fits) => Rank::Exact,
        (true, _) if !block.tags.is_empty() => Rank::Provider,
        // A block without tags says nothing of the provider.
        _ => Rank::Scheme,
    };
    Ok(Fit { credential, name, scheme, rank, hosts, audience, notes })
}

/// How much of the hosts is the credential's and of its token's audience, and what is not.
fn cover(candidate: &Candidate, places: &Places) -> (Cover, Cover, Vec<String>) {
    let reach = candidate.reach();
    let (mut works, mut fails, mut aimed, mut missed) = (0, 0, 0, 0);
    let mut lacks = Vec::new();
    let mut partly = false;
    for place in places.told() {
        let reached = reach.judge(place);
        *if reached.works() { &mut works } else { &mut fails } += 1;
        partly |= reached.lacks.is_some();
        aimed += usize::from(reached.is_aimed);
        missed += usize::from(reached.misses.is_some());
        lacks.extend(reached.lacks);
        lacks.extend(reached.misses);
    }
    let hosts = match Cover::of(works, fails) {
        Cover::Fits if partly => Cover::Partly,
        cover => cover,
    };
    let more = lacks.len().saturating_sub(LISTED);
    if more > 0 {
        lacks.truncate(LISTED);
        lacks.push(format!("the same of {more} more"));
    }
    (hosts, Cover::of(aimed, missed), lacks)
}

fn serves_every_subscription(candidate: &Candidate, places: &Places) -> bool {
    let gives_tokens = ["azure", "oauth2"].contains(&candidate.scheme.as_str());
    let reach = candidate.reach();
    let is_management = |host: &str| aim(RESOURCE_MANAGEMENT, host) == Aim::Fits;
    gives_tokens && places.told().any(|place| is_management(&place.shape.to_string()) && reach.judge(place).works())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Use;
    use crate::policy::testing::{Numbers, block, call, candidate, map, parameter, template};

    const DATABRICKS: &str = "2ff814a6-3304-4ab8-85cb-cd0e6f879c1d";
    const WORKSPACE: &str = "adb-1.2.azuredatabricks.net";

    fn verdicts(block: &Block, candidates: &[Candidate], all: bool) -> Verdicts {
        judge(block, candidates, &BTreeMap::new(), &template(std::slice::from_ref(block)), all)
    }

    fn fit(block: &Block, candidate: &Candidate) -> Fit {
        let verdicts = verdicts(block, std::slice::from_ref(candidate), false);
        assert_eq!(verdicts.others, [], "{block:?}");
        verdicts.fits.into_iter().next().unwrap()
    }

    fn reasons(block: &Block, candidate: &Candidate) -> Vec<String> {
        let verdicts = verdicts(block, std::slice::from_ref(candidate), false);
        assert_eq!(verdicts.fits, [], "{block:?}");
        verdicts.others.into_iter().next().unwrap().reasons
    }

    fn spot(uses: &[Use]) -> Block {
        block("auth_spot", &["api_key"], "spotinst", uses)
    }

    #[test]
    fn the_scheme_is_among_the_blocks_however_it_is_spelt() {
        let of = |schemes: &[&str]| block("auth_aws", schemes, "aws", &[]);
        let aws = candidate("aws", "aws_sts", &["*.amazonaws.com"], "aws");
        for schemes in [&["aws_sts"][..], &["aws-sts"], &["aws", "AWS-STS"]] {
            assert_eq!(fit(&of(schemes), &aws).rank, Rank::Provider);
        }
        assert_eq!(reasons(&of(&["oauth2"]), &aws), ["its scheme is aws_sts, and the block takes oauth2"]);
        assert_eq!(reasons(&of(&["aws", "basic"]), &aws), ["its scheme is aws_sts, and the block takes aws, basic"]);
        assert_eq!(reasons(&of(&[]), &aws), ["the block names no scheme, and takes no credential"]);
    }

    #[test]
    fn every_tag_is_there_without_regard_to_case_unless_tags_are_dropped() {
        let mut wants = spot(&[call(9, "GET", "api.spotinst.io")]);
        wants.tags = map(&[("provider", "spotinst"), ("Tier", "Prod")]);
        let mut has = candidate("spot", "api_key", &["api.spotinst.io"], "SpotInst");
        has.tags.insert("tier".into(), "PROD".into());
        assert_eq!(fit(&wants, &has).rank, Rank::Exact);
        has.tags.insert("tier".into(), "test".into());
        assert_eq!(reasons(&wants, &has), ["tag Tier is test, and the block wants Prod"]);
        has.tags.clear();
        let missing = [
            "it has no tag Tier, and the block wants Prod".to_owned(),
            "it has no tag provider, and the block wants spotinst".to_owned(),
        ];
        assert_eq!(reasons(&wants, &has), missing);
        let [loose] = &verdicts(&wants, std::slice::from_ref(&has), true).fits[..] else { panic!("it fits") };
        assert_eq!((loose.rank, loose.hosts, &loose.notes[..]), (Rank::Scheme, Cover::Fits, &missing[..]));
        // The scheme stays.
        has.scheme = "basic".into();
        assert_eq!(verdicts(&wants, &[has], true).fits, []);
    }

    #[test]
    fn what_nobody_can_use_fits_nowhere() {
        let wants = spot(&[]);
        let own = candidate("spot", "api_key", &["api.spotinst.io"], "spotinst");
        let off = Candidate { enabled: false, ..own.clone() };
        let removed = Candidate { removed: true, ..own.clone() };
        let hostless = Candidate { hosts: Vec::new(), ..own.clone() };
        assert_eq!(reasons(&wants, &off), ["it is switched off"]);
        assert_eq!(reasons(&wants, &removed), ["it was removed"]);
        assert_eq!(reasons(&wants, &hostless), ["it names no hosts, and signs for none"]);
        let ssh = candidate("key", "ssh", &[], "github");
        let why = [
            "scheme ssh signs nothing",
            "its scheme is ssh, and the block takes api_key",
            "tag provider is github, and the block wants spotinst",
        ];
        assert_eq!(reasons(&wants, &ssh), why);
        assert_eq!(fit(&wants, &own).hosts, Cover::NotTold);
    }

    #[test]
    fn a_key_does_not_go_to_a_host_that_is_not_its_own() {
        let spots = candidate("spot", "api_key", &["api.spotinst.io"], "spotinst");
        let foreign = "n3hlz25n15.execute-api.us-east-1.amazonaws.com";
        let why = "the template calls n3hlz25n15.execute-api.us-east-1.amazonaws.com, which is not among its hosts (api.spotinst.io)";
        assert_eq!(reasons(&spot(&[call(7, "POST", foreign)]), &spots), [why]);
        // One that covers some hosts fits less, and says what it lacks.
        let some = fit(&spot(&[call(7, "POST", foreign), call(9, "GET", "api.spotinst.io")]), &spots);
        assert_eq!((some.rank, some.hosts, &some.notes[..]), (Rank::Provider, Cover::Partly, &[why.to_owned()][..]));
        let both = candidate("spot", "api_key", &["api.spotinst.io", foreign], "spotinst");
        let all = fit(&spot(&[call(7, "POST", foreign), call(9, "GET", "api.spotinst.io")]), &both);
        assert_eq!((all.rank, all.hosts, &all.notes[..]), (Rank::Exact, Cover::Fits, &[][..]));
        // AWS's own wildcard does not mean what strangers have there.
        let aws = candidate("aws", "aws", &["*.amazonaws.com"], "aws");
        let wants = |host: &str| block("auth_aws", &["aws"], "aws", &[call(7, "GET", host)]);
        assert!(reasons(&wants(foreign), &aws)[0].contains("only its whole name does"));
        assert_eq!(fit(&wants("ec2.us-east-1.amazonaws.com"), &aws).rank, Rank::Exact);
    }

    #[test]
    fn a_token_for_another_service_does_not_fit_both_ways() {
        let wants = |host: &str| block("auth_x", &["oauth2"], "azure", &[call(7, "GET", host)]);
        let aimed = |audience: &str, hosts: &[&str]| Candidate {
            audience: Some(audience.into()),
            ..candidate("azure", "oauth2", hosts, "azure")
        };
        let hosts = ["management.azure.com", WORKSPACE];
        let management = aimed("https://management.azure.com", &hosts);
        let databricks = aimed(DATABRICKS, &hosts);
        let why =
            |is: &str, host: &str, wanted: &str| vec![format!("its token is for {is}, and {host} wants {wanted}")];
        assert_eq!(reasons(&wants(WORKSPACE), &management), why("https://management.azure.com", WORKSPACE, DATABRICKS));
        assert_eq!(
            reasons(&wants("management.azure.com"), &databricks),
            why(DATABRICKS, "management.azure.com", "https://management.azure.com")
        );
        let right = fit(&wants(WORKSPACE), &databricks);
        assert_eq!((right.rank, right.audience), (Rank::Exact, Cover::Fits));
        let unknown = Candidate { audience: None, ..management.clone() };
        assert_eq!(fit(&wants(WORKSPACE), &unknown).audience, Cover::NotTold);
        // One of two.
        let mut both = wants(WORKSPACE);
        both.uses.push(call(8, "GET", "management.azure.com"));
        let partly = fit(&both, &management);
        assert_eq!((partly.rank, partly.hosts, partly.audience), (Rank::Provider, Cover::Partly, Cover::Partly));
        assert_eq!(partly.notes.len(), 2, "{:?}", partly.notes);
    }

    #[test]
    fn a_credential_for_many_subscriptions_is_shown_as_such() {
        let wants = |host: &str| block("auth_azure", &["oauth2"], "azure_rm", &[call(7, "GET", host)]);
        let azure = candidate("azure", "oauth2", &["management.azure.com", "graph.microsoft.com"], "azure_rm");
        let notes = fit(&wants("management.azure.com"), &azure).notes;
        assert_eq!(notes, ["one credential serves every subscription that it has rights to"]);
        assert_eq!(fit(&wants("graph.microsoft.com"), &azure).notes, [""; 0]);
    }

    #[test]
    fn the_best_come_first_and_every_other_one_says_why() {
        let wants = spot(&[call(7, "GET", "api.spotinst.io")]);
        let mut candidates = vec![
            candidate("d", "api_key", &["api.spotinst.io"], "other"),
            candidate("c", "api_key", &["*.spotinst.io"], "spotinst"),
            candidate("b", "basic", &["elsewhere.test"], "other"),
            candidate("a", "api_key", &["api.spotinst.io"], "spotinst"),
        ];
        let ids = |verdicts: &Verdicts| {
            let fits = verdicts.fits.iter().map(|fit| (fit.credential.clone(), fit.rank)).collect::<Vec<_>>();
            (fits, verdicts.others.iter().map(|other| other.credential.clone()).collect::<Vec<_>>())
        };
        let exact = |id: &str| (id.to_owned(), Rank::Exact);
        let narrow = verdicts(&wants, &candidates, false);
        assert_eq!(ids(&narrow), (vec![exact("a"), exact("c")], vec!["b".to_owned(), "d".to_owned()]));
        assert_eq!(narrow.others[0].reasons.len(), 3, "{narrow:?}");
        assert_eq!(narrow.others[0].hosts, Cover::No);
        candidates.reverse();
        let all = verdicts(&wants, &candidates, true);
        let scheme = ("d".to_owned(), Rank::Scheme);
        assert_eq!(ids(&all), (vec![exact("a"), exact("c"), scheme], vec!["b".to_owned()]));
        let json = serde_json::to_value(&all.fits[0]).unwrap();
        assert_eq!((json["rank"].as_str(), json["hosts"].as_str()), (Some("exact"), Some("fits")));
        assert_eq!(json["audience"], "not_told");
    }

    #[test]
    fn parameters_tell_hosts_and_account_numbers() {
        let mut wants = block("auth_azure", &["oauth2"], "azure_rm", &[call(7, "GET", "{param_host}")]);
        wants.account_number = Some("$param_account".into());
        let mut template = template(std::slice::from_ref(&wants));
        template.parameters = vec![
            parameter("param_host", None, &["management.azure.com", "management.chinacloudapi.cn"]),
            parameter("param_account", Some(""), &[]),
        ];
        let azure = candidate("azure", "oauth2", &["management.azure.com"], "azure_rm");
        let judged = |parameters: &[(&str, &str)], template: &Template| {
            judge(&wants, std::slice::from_ref(&azure), &map(parameters), template, false)
        };
        // Each of the allowed, until one is chosen.
        assert_eq!(judged(&[], &template).fits[0].hosts, Cover::Partly);
        assert_eq!(judged(&[("param_host", "management.azure.com")], &template).fits[0].rank, Rank::Exact);
        assert_eq!(judged(&[("param_host", "management.chinacloudapi.cn")], &template).fits, []);
        let note = "it assumes no role: it works without an account number only".to_owned();
        assert!(judged(&[("param_account", "123456789012")], &template).fits[0].notes.contains(&note));
        assert!(!judged(&[], &template).fits[0].notes.contains(&note));
        template.parameters[0].default = Some("management.azure.com".into());
        assert_eq!(judged(&[], &template).fits[0].rank, Rank::Exact);
        // Without any of these it tells nothing.
        template.parameters.clear();
        let fit = &judged(&[], &template).fits[0];
        assert_eq!(
            (fit.hosts, fit.rank, &fit.notes[0][..]),
            (Cover::NotTold, Rank::Provider, "line 7: the host is not told")
        );
    }

    #[test]
    fn a_credential_of_the_store_is_known_by_its_settings_and_not_by_its_secrets() {
        let record = |scheme: &str, settings: serde_json::Value| {
            let at =
                crate::store::Change { at: std::time::UNIX_EPOCH, by: crate::store::Actor { name: "local".into() } };
            crate::store::CredentialRecord {
                account: "default".into(),
                id: "x".into(),
                version: 1,
                name: "X".into(),
                description: None,
                scheme: scheme.into(),
                hosts: Vec::new(),
                tags: BTreeMap::new(),
                enabled: true,
                settings,
                extra: serde_json::Value::Null,
                expires_at: None,
                created: at.clone(),
                updated: at,
                removed: false,
                changed_fields: Vec::new(),
            }
        };
        let sealed = |path: &str| serde_json::json!({ "sealed": path });
        let oauth2 = |key: &str, value: serde_json::Value| {
            let mut settings = serde_json::json!({
                "grant_type": "client_credentials", "token_url": "https://login.microsoftonline.com/t/oauth2/token",
                "client_id": "me", "client_secret": sealed("client_secret"),
            });
            settings[key] = value;
            Candidate::of(&record("oauth2", settings)).audience
        };
        let management = "https://management.azure.com";
        assert_eq!(oauth2("resource", management.into()).as_deref(), Some(management));
        assert_eq!(oauth2("audience", DATABRICKS.into()).as_deref(), Some(DATABRICKS));
        assert_eq!(oauth2("scopes", format!("{management}/.default").into()).as_deref(), Some(management));
        let params = serde_json::json!({ "resource": management });
        assert_eq!(oauth2("additional_params", params).as_deref(), Some(management));
        let hidden = serde_json::json!({ "resource": sealed("additional_params.resource") });
        assert_eq!(oauth2("additional_params", hidden), None);
        assert_eq!(oauth2("scopes", "read write".into()), None);
        let azure = Candidate::of(&record(
            "azure",
            serde_json::json!({
                "tenant": "t", "client_id": "c", "client_secret": sealed("client_secret"), "audience": "resource_management",
            }),
        ));
        assert_eq!(azure.audience.as_deref(), Some(management));
        assert_eq!(azure.hosts, ["management.azure.com"]);
        let aws = |role: bool| {
            let mut settings = serde_json::json!({ "role_arn": "arn:aws:iam::123456789012:role/policies" });
            if !role {
                settings =
                    serde_json::json!({ "access_key": "AKIAIOSFODNN7EXAMPLE", "secret_key": sealed("secret_key") });
            }
            Candidate::of(&record(if role { "aws_sts" } else { "aws" }, settings))
        };
        assert_eq!((aws(true).accounts, aws(false).accounts), (vec!["123456789012".to_owned()], vec![]));
        assert!(aws(true).hosts.contains(&"*.amazonaws.com".to_owned()));
        assert_eq!(Candidate::of(&record("ssh", serde_json::json!({}))).hosts, [""; 0]);
    }

    #[test]
    fn every_credential_is_judged_once_and_all_drops_tags_only() {
        let mut numbers = Numbers(3);
        let hosts = ["a.test", "*.a.test", "b.test", "{h}.a.test", "{h}", "x{h}.b.test", "no host"];
        for _ in 0..2_000 {
            let uses: Vec<Use> = (0..numbers.below(4)).map(|line| call(line, "GET", numbers.one(&hosts))).collect();
            let wants = block("auth_x", &[numbers.one(&["basic", "api-key"])], numbers.one(&["p", "q"]), &uses);
            let candidates: Vec<Candidate> = (0..4)
                .map(|at| {
                    let own = numbers.one(&["a.test", "*.a.test", "b.test"]);
                    let scheme = numbers.one(&["basic", "api_key"]);
                    candidate(&format!("c{at}"), scheme, &[own], numbers.one(&["P", "q"]))
                })
                .collect();
            let (narrow, all) = (verdicts(&wants, &candidates, false), verdicts(&wants, &candidates, true));
            for verdicts in [&narrow, &all] {
                assert_eq!(verdicts.fits.len() + verdicts.others.len(), candidates.len());
                assert!(verdicts.others.iter().all(|other| !other.reasons.is_empty()));
                assert!(verdicts.fits.is_sorted_by_key(|fit| fit.rank));
                assert!(verdicts.fits.iter().all(|fit| wants.schemes[0].replace('-', "_") == fit.scheme));
            }
            let has = |fit: &Fit| all.fits.iter().any(|other| other.credential == fit.credential);
            assert!(narrow.fits.iter().all(has), "{narrow:?} {all:?}");
        }
    }
}
