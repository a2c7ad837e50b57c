//! Tests of what a run may use.

use super::*;
use crate::policy::testing::{Numbers, block, call, candidate, map, parameter, template};
use crate::policy::{Issue, Use};
use crate::route::{HostPattern, HostShape};

type Chosen = BTreeMap<String, Option<Candidate>>;

fn chosen(pairs: &[(&str, Candidate)]) -> Chosen {
    pairs.iter().map(|(block, candidate)| ((*block).to_owned(), Some(candidate.clone()))).collect()
}

fn aws() -> Candidate {
    let accounts = ["000000000001", "123456789012"].map(str::to_owned).to_vec();
    Candidate { accounts, ..candidate("aws_default", "aws_sts", &["*.amazonaws.com", "*.api.aws"], "aws") }
}

fn spot() -> Candidate {
    candidate("spot", "api_key", &["api.spotinst.io"], "spotinst")
}

fn aws_block(uses: &[Use]) -> Block {
    block("auth_aws", &["aws", "aws_sts"], "aws", uses)
}

fn spot_block(uses: &[Use]) -> Block {
    block("auth_spot", &["api_key"], "spotinst", uses)
}

fn proposed(template: &Template, chosen: &Chosen, parameters: &[(&str, &str)], options: Options) -> Proposal {
    propose(template, chosen, &map(parameters), options).unwrap()
}

fn plainly(template: &Template, chosen: &Chosen) -> Proposal {
    proposed(template, chosen, &[], Options::default())
}

fn problems(template: &Template, chosen: &Chosen, parameters: &[(&str, &str)], options: Options) -> Vec<String> {
    let problems = propose(template, chosen, &map(parameters), options).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

fn refused(template: &Template, chosen: &Chosen, parameters: &[(&str, &str)]) -> Vec<String> {
    problems(template, chosen, parameters, Options::default())
}

/// The one problem there is, which has to say this.
fn assert_refused(template: &Template, chosen: &Chosen, parameters: &[(&str, &str)], says: &str) {
    let problems = refused(template, chosen, parameters);
    assert!(matches!(&problems[..], [one] if one.contains(says)), "{says}: {problems:?}");
}

fn text(binding: &PolicyBinding) -> String {
    let (hosts, shapes) = (binding.hosts.join(" "), binding.shapes.join(" "));
    format!("{} {} [{hosts}] [{shapes}] [{}]", binding.block, binding.credential, binding.methods.join(" "))
}

fn texts(proposal: &Proposal) -> Vec<String> {
    proposal.bindings.iter().map(text).collect()
}

#[test]
fn bindings_are_narrowed_to_hosts_and_methods_one_for_each_set_of_methods() {
    let template = template(&[
        aws_block(&[
            call(9, "GET", "ec2.{region}.amazonaws.com"),
            call(12, "POST", "ec2.{region}.amazonaws.com"),
            call(15, "GET", "sts.amazonaws.com"),
            call(20, "get", "{bucket}.s3.amazonaws.com"),
            call(22, "GET", "sts.amazonaws.com"),
        ]),
        spot_block(&[call(30, "DELETE", "API.spotinst.io")]),
    ]);
    let proposal = plainly(&template, &chosen(&[("auth_aws", aws()), ("auth_spot", spot())]));
    assert_eq!(
        texts(&proposal),
        [
            "auth_aws aws_default [*.s3.amazonaws.com sts.amazonaws.com] [] [GET]",
            "auth_aws aws_default [*.amazonaws.com] [ec2.{region}.amazonaws.com] [GET POST]",
            "auth_spot spot [api.spotinst.io] [] [DELETE]",
        ]
    );
    assert_eq!(proposal.notes, [""; 0]);
    assert!(proposal.bindings.iter().all(|binding| !binding.only_named && !binding.allow_cleartext));
    assert_eq!(proposal.bindings[0].account_number, None);
    assert_eq!(proposal.passages, []);
}

#[test]
fn what_is_shaped_and_what_is_not_share_a_binding_of_both() {
    let template =
        template(&[aws_block(&[call(9, "GET", "ec2.{region}.amazonaws.com"), call(12, "GET", "sts.amazonaws.com")])]);
    let proposal = plainly(&template, &chosen(&[("auth_aws", aws())]));
    let expected =
        "auth_aws aws_default [*.amazonaws.com sts.amazonaws.com] [ec2.{region}.amazonaws.com sts.amazonaws.com] [GET]";
    assert_eq!(texts(&proposal), [expected]);
}

#[test]
fn hosts_are_the_narrower_of_the_templates_and_the_credentials() {
    let template = template(&[aws_block(&[call(9, "GET", "ec2.{region}.amazonaws.com")])]);
    let of = |hosts: &[&str]| {
        let own = Candidate { hosts: hosts.iter().map(|host| (*host).to_owned()).collect(), ..aws() };
        plainly(&template, &chosen(&[("auth_aws", own)]))
    };
    for (own, expected) in [
        ("*.us-east-1.amazonaws.com", "*.us-east-1.amazonaws.com"),
        ("ec2.us-east-1.amazonaws.com", "ec2.us-east-1.amazonaws.com"),
        ("*.com:443", "*.amazonaws.com:443"),
    ] {
        assert_eq!(of(&[own]).bindings[0].hosts, [expected]);
    }
    let some = of(&["ec2.us-east-1.amazonaws.com", "sts.amazonaws.com"]);
    assert_eq!(some.bindings[0].hosts, ["ec2.us-east-1.amazonaws.com"]);
    assert!(some.notes[0].contains("of which only ec2.us-east-1.amazonaws.com is among its hosts"), "{:?}", some.notes);
    assert_eq!(of(&["*.amazonaws.com"]).notes, [""; 0]);
    // The port of a pattern is that of TLS in a template that names none.
    let other = Candidate { hosts: vec!["*.amazonaws.com:8443".into()], ..aws() };
    assert_refused(&template, &chosen(&[("auth_aws", other)]), &[], "which is not among its hosts");
}

#[test]
fn a_host_that_is_not_told_means_the_credentials_own_and_says_which_line() {
    let told = |host: &str| {
        let template = template(&[spot_block(&[call(9, "GET", host), call(11, "GET", "api.spotinst.io")])]);
        plainly(&template, &chosen(&[("auth_spot", spot())]))
    };
    let any = told("{host}");
    assert_eq!(texts(&any), ["auth_spot spot [api.spotinst.io] [] [GET]"]);
    assert_eq!(any.notes, ["auth_spot: line 9: the host is not told, so the credential's own hosts are meant"]);
    let wide = told("api.spotinst.{domain}");
    assert_eq!(wide.bindings[0].hosts, ["api.spotinst.io"]);
    assert!(wide.notes.iter().any(|note| note.contains("too little of the host is told")), "{:?}", wide.notes);
    let method = template(&[spot_block(&[call(9, "{verb}", "api.spotinst.io")])]);
    let proposal = plainly(&method, &chosen(&[("auth_spot", spot())]));
    assert_eq!(texts(&proposal), ["auth_spot spot [api.spotinst.io] [] []"]);
    assert_eq!(proposal.notes, ["auth_spot: line 9: the method is not told, so every one is meant"]);
    let none = template(&[spot_block(&[call(9, "GET", "not a host"), call(11, "GET", "api.spotinst.io")])]);
    let proposal = plainly(&none, &chosen(&[("auth_spot", spot())]));
    assert_eq!(proposal.bindings[0].hosts, ["api.spotinst.io"]);
    assert!(proposal.notes[0].starts_with("auth_spot: line 9 is left out"), "{:?}", proposal.notes);
}

#[test]
fn a_block_that_is_used_nowhere_gets_no_binding_unless_nothing_tells_of_any_use() {
    let both = chosen(&[("auth_aws", aws()), ("auth_spot", spot())]);
    let unused = template(&[aws_block(&[]), spot_block(&[call(9, "GET", "api.spotinst.io")])]);
    let proposal = plainly(&unused, &both);
    assert_eq!(texts(&proposal), ["auth_spot spot [api.spotinst.io] [] [GET]"]);
    assert_eq!(proposal.notes, ["auth_aws: nothing in the template uses it, so it gets no binding"]);
    let mut silent = template(&[aws_block(&[]), spot_block(&[])]);
    let proposal = plainly(&silent, &both);
    let expected = ["auth_aws aws_default [*.amazonaws.com *.api.aws] [] []", "auth_spot spot [api.spotinst.io] [] []"];
    assert_eq!(texts(&proposal), expected);
    assert!(proposal.notes[0].contains("does not tell where it is used"), "{:?}", proposal.notes);
    silent.unsigned = vec![call(5, "GET", "raw.githubusercontent.com")];
    assert_eq!(plainly(&silent, &both).bindings, []);
}

#[test]
fn loosely_a_run_may_use_all_of_the_credentials_hosts_and_nothing_else_is_dropped() {
    let loose = Options { loose: true, ..Options::default() };
    let template = template(&[spot_block(&[
        call(9, "POST", "x.execute-api.us-east-1.amazonaws.com"),
        call(11, "GET", "api.spotinst.io"),
    ])]);
    let own = chosen(&[("auth_spot", spot())]);
    assert_refused(&template, &own, &[], "which is not among its hosts (api.spotinst.io); choose another");
    let proposal = proposed(&template, &own, &[], loose);
    assert_eq!(texts(&proposal), ["auth_spot spot [api.spotinst.io] [] [GET POST]"]);
    // The scheme and the audience stay.
    let basic = chosen(&[("auth_spot", Candidate { scheme: "basic".into(), ..spot() })]);
    assert!(problems(&template, &basic, &[], loose)[0].contains("its scheme is basic"));
    let databricks = super::super::testing::template(&[block(
        "auth_x",
        &["oauth2"],
        "azure",
        &[call(9, "GET", "adb-1.2.azuredatabricks.net")],
    )]);
    let token = |audience: &str| {
        let azure = candidate("azure", "oauth2", &["*.azuredatabricks.net"], "azure");
        chosen(&[("auth_x", Candidate { audience: Some(audience.into()), ..azure })])
    };
    let why = problems(&databricks, &token("https://management.azure.com"), &[], loose);
    assert!(why[0].contains("its token is for https://management.azure.com"), "{why:?}");
    let right = proposed(&databricks, &token("2ff814a6-3304-4ab8-85cb-cd0e6f879c1d"), &[], loose);
    assert_eq!(right.bindings[0].hosts, ["*.azuredatabricks.net"]);
}

#[test]
fn a_selection_that_cannot_work_is_refused_by_block() {
    let template = template(&[
        aws_block(&[call(9, "GET", "sts.amazonaws.com")]),
        spot_block(&[call(12, "GET", "api.spotinst.io")]),
    ]);
    let right = chosen(&[("auth_aws", aws()), ("auth_spot", spot())]);
    assert_eq!(plainly(&template, &right).bindings.len(), 2);
    let with = |block: &str, candidate: Option<Candidate>| {
        let mut chosen = right.clone();
        chosen.insert(block.into(), candidate);
        chosen
    };
    let mut less = right.clone();
    less.remove("auth_spot");
    assert_refused(&template, &less, &[], "auth_spot: no credential was chosen for it; choose one of scheme api_key");
    assert_refused(
        &template,
        &with("auth_x", Some(spot())),
        &[],
        "auth_x: the template has no such credentials block; it has auth_aws, auth_spot",
    );
    assert_refused(&template, &with("auth_spot", None), &[], "auth_spot: credential: not found");
    let removed = Candidate { removed: true, ..spot() };
    assert_refused(&template, &with("auth_spot", Some(removed)), &[], "auth_spot: credential: not found");
    let off = Candidate { enabled: false, ..spot() };
    assert_refused(&template, &with("auth_spot", Some(off)), &[], "auth_spot: credential spot: it is switched off");
    assert_refused(
        &template,
        &with("auth_spot", Some(aws())),
        &[],
        "its scheme is aws_sts, and the block takes api_key",
    );
    // All of them at once.
    let nothing = refused(&template, &Chosen::new(), &[]);
    assert_eq!(nothing.len(), 2, "{nothing:?}");
}

#[test]
fn a_tag_that_differs_is_a_note() {
    let template = template(&[spot_block(&[call(12, "GET", "api.spotinst.io")])]);
    let other = chosen(&[("auth_spot", Candidate { tags: map(&[("provider", "other")]), ..spot() })]);
    assert_eq!(
        plainly(&template, &other).notes,
        ["auth_spot: credential spot: tag provider is other, and the block wants spotinst"]
    );
    let all = Options { all: true, ..Options::default() };
    assert_eq!(proposed(&template, &other, &[], all).notes, [""; 0]);
}

#[test]
fn an_account_number_has_twelve_digits_and_a_role() {
    let of = |account: &str, default: Option<&str>| {
        let mut wants = aws_block(&[call(9, "GET", "sts.amazonaws.com")]);
        wants.account_number = Some(account.into());
        let mut template = template(&[wants]);
        template.parameters = vec![parameter("param_account", default, &[])];
        template
    };
    let role = chosen(&[("auth_aws", aws())]);
    let number = |template: &Template, parameters: &[(&str, &str)]| {
        proposed(template, &role, parameters, Options::default()).bindings[0].account_number.clone()
    };
    let twelve = Some("123456789012".to_owned());
    assert_eq!(number(&of("123456789012", None), &[]), twelve);
    assert_eq!(number(&of("$param_account", Some("123456789012")), &[]), twelve);
    assert_eq!(number(&of("$param_account", Some("")), &[("param_account", "123456789012")]), twelve);
    assert_eq!(number(&of("$param_account", Some("")), &[]), None);
    assert_eq!(number(&of("$param_account", Some("123456789012")), &[("param_account", "")]), None);
    // A declaration needs no list of parameters for it.
    assert_eq!(number(&of("$param_other", None), &[("param_other", "123456789012")]), twelve);
    for wrong in ["12345678901", "1234567890123", "12345678901x", "1234-5678-9012"] {
        assert_refused(&of("$param_account", None), &role, &[("param_account", wrong)], "has 12 digits");
    }
    let keys = chosen(&[("auth_aws", candidate("keys", "aws", &["*.amazonaws.com"], "aws"))]);
    let given = of("$param_account", None);
    assert_refused(&given, &role, &[("param_account", "999999999999")], "list the account under its `accounts`");
    assert_refused(&given, &keys, &[("param_account", "123456789012")], "credential keys assumes no role");
    assert_eq!(plainly(&given, &keys).bindings[0].account_number, None);
}

#[test]
fn parameters_are_the_templates_and_of_its_values() {
    let mut azure = template(&[block("auth_azure", &["oauth2"], "azure_rm", &[call(9, "GET", "{param_host}")])]);
    azure.parameters = vec![
        parameter("param_host", None, &["management.azure.com", "management.chinacloudapi.cn"]),
        parameter("param_region", Some("us-east-1"), &[]),
    ];
    let own = candidate("azure", "oauth2", &["management.azure.com", "management.chinacloudapi.cn"], "azure_rm");
    let own = chosen(&[("auth_azure", own)]);
    let hosts = |template: &Template, parameters: &[(&str, &str)]| {
        proposed(template, &own, parameters, Options::default()).bindings[0].hosts.clone()
    };
    assert_eq!(hosts(&azure, &[]), ["management.azure.com", "management.chinacloudapi.cn"]);
    assert_eq!(hosts(&azure, &[("param_host", "management.azure.com")]), ["management.azure.com"]);
    // A credential for one of them only needs the choice.
    let one = candidate("azure", "oauth2", &["management.azure.com"], "azure_rm");
    let one = chosen(&[("auth_azure", one)]);
    assert_refused(&azure, &one, &[], "; set parameter param_host, choose another");
    let set = [("param_host", "management.azure.com")];
    assert_eq!(proposed(&azure, &one, &set, Options::default()).notes, [""; 0]);
    azure.parameters[0].default = Some("management.chinacloudapi.cn".into());
    assert_eq!(hosts(&azure, &[]), ["management.chinacloudapi.cn"]);
    let says = "parameter param_host is one of management.azure.com, management.chinacloudapi.cn, not `evil.test`";
    let refusals = refused(&azure, &own, &[("param_host", "evil.test")]);
    assert!(refusals.contains(&says.to_owned()), "{refusals:?}");
    assert_refused(
        &azure,
        &own,
        &[("param_x", "y")],
        "the template has no parameter param_x; it has param_host, param_region",
    );
    // A value that makes no host, or a hole of its own.
    azure.parameters[0].allowed.clear();
    for value in ["https://management.azure.com", "a b", "{x}", "management.azure.com/x", "*.azure.com"] {
        assert_refused(&azure, &own, &[("param_host", value)], "parameter param_host makes no host in line 9");
    }
    // Within a host.
    let mut ec2 = template(&[aws_block(&[call(9, "GET", "ec2.{param_region}.amazonaws.com")])]);
    ec2.parameters = azure.parameters.clone();
    let role = chosen(&[("auth_aws", aws())]);
    assert_eq!(plainly(&ec2, &role).bindings[0].hosts, ["ec2.us-east-1.amazonaws.com"]);
    ec2.parameters[1].default = None;
    assert_eq!(plainly(&ec2, &role).bindings[0].shapes, ["ec2.{param_region}.amazonaws.com"]);
}

#[test]
fn many_values_in_one_host_stay_a_hole() {
    let mut template = template(&[aws_block(&[call(9, "GET", "{param_a}-{param_b}.{param_a}.amazonaws.com")])]);
    let values: Vec<String> = (0..9).map(|value| format!("v{value}")).collect();
    let values: Vec<&str> = values.iter().map(String::as_str).collect();
    template.parameters = vec![parameter("param_a", None, &values), parameter("param_b", None, &values)];
    let proposal = plainly(&template, &chosen(&[("auth_aws", aws())]));
    assert_eq!(proposal.bindings[0].hosts, ["*.amazonaws.com"]);
    assert!(proposal.bindings[0].shapes.len() <= 64, "{:?}", proposal.bindings);
}

#[test]
fn errors_of_the_template_concern_the_block_that_they_are_in() {
    let mut template = template(&[
        aws_block(&[call(40, "GET", "sts.amazonaws.com")]),
        spot_block(&[call(50, "GET", "api.spotinst.io")]),
    ]);
    let both = chosen(&[("auth_aws", aws()), ("auth_spot", spot())]);
    for (line, message, about) in [
        (12, "a tag is `key=value`", Some("auth_aws")),
        (50, "the text does not end", Some("auth_spot")),
        (90, "there is no auth_aws2", Some("auth_aws2")),
        (40, "the text does not tell which block authenticates this request, auth_aws or another", None),
        (2, "the text does not end", None),
    ] {
        template.errors = vec![Issue { line, column: 3, message: message.into(), block: about.map(Into::into) }];
        match about.filter(|about| *about != "auth_aws2") {
            Some(block) => {
                let says = format!("{block}: the template is wrong in line {line}, column 3: {message}");
                assert_refused(&template, &both, &[], &says);
            }
            None => {
                let notes = plainly(&template, &both).notes;
                assert_eq!(notes, [format!("the template was not read in line {line}, column 3: {message}")]);
            }
        }
    }
}

#[test]
fn secrets_travel_unencrypted_only_where_that_is_asked_for() {
    let clear = Use { cleartext: true, ..call(9, "GET", "api.spotinst.io") };
    let template = template(&[spot_block(&[clear, call(11, "POST", "api.spotinst.io:8443")])]);
    let own = chosen(&[("auth_spot", spot())]);
    assert_refused(&template, &own, &[], "auth_spot: line 9: the credential would travel unencrypted");
    let allowed = Options { allow_cleartext: true, ..Options::default() };
    let bindings = proposed(&template, &own, &[], allowed).bindings;
    let each: Vec<_> = bindings.iter().map(|binding| (&binding.methods[0][..], binding.allow_cleartext)).collect();
    assert_eq!(each, [("GET", true), ("POST", false)]);
    let encrypted = super::super::testing::template(&[spot_block(&[call(9, "GET", "api.spotinst.io")])]);
    assert!(!proposed(&encrypted, &own, &[], allowed).bindings[0].allow_cleartext);
}

#[test]
fn a_page_whose_address_comes_from_an_answer_is_noted_and_opens_no_other_host() {
    let of = |followed| template(&[spot_block(&[Use { followed, ..call(9, "GET", "api.spotinst.io") }])]);
    let own = chosen(&[("auth_spot", spot())]);
    let (with, without) = (plainly(&of(true), &own), plainly(&of(false), &own));
    let note = "auth_spot: line 9: the next page's address comes from the answer; another host would be refused";
    assert_eq!(with.notes, [note]);
    assert_eq!((without.notes.len(), without.bindings), (0, with.bindings));
}

#[test]
fn requests_without_a_credential_become_passages_where_enough_is_told() {
    let mut template = template(&[]);
    template.unsigned = vec![
        call(5, "GET", "raw.githubusercontent.com"),
        call(6, "GET", "{x}.example.com"),
        call(7, "POST", "api.{region}.example.com"),
        call(8, "GET", "{host}"),
        call(9, "GET", "api.{tld}"),
        call(10, "GET", "no host"),
    ];
    let proposal = plainly(&template, &Chosen::new());
    let passages: Vec<_> = proposal
        .passages
        .iter()
        .map(|passage| {
            format!("[{}] [{}] [{}]", passage.hosts.join(" "), passage.shapes.join(" "), passage.methods.join(" "))
        })
        .collect();
    assert_eq!(
        passages,
        ["[*.example.com raw.githubusercontent.com] [] [GET]", "[*.example.com] [api.{region}.example.com] [POST]"]
    );
    let left_out = |line| format!("line {line}: a request without a credential whose host is not told is left out");
    assert_eq!(proposal.notes.len(), 3, "{:?}", proposal.notes);
    assert!(proposal.notes.contains(&left_out(8)) && proposal.notes.contains(&left_out(9)));
    assert!(proposal.notes.iter().any(|note| note.starts_with("line 10 is left out")));
    assert_eq!(proposal.bindings, []);
}

#[test]
fn where_nothing_decides_between_two_blocks_both_have_to_be_named() {
    let two =
        |one: &[Use], two: &[Use]| template(&[aws_block(one), Block { name: "auth_other".into(), ..aws_block(two) }]);
    let other = Candidate { id: "other".into(), ..aws() };
    let both = chosen(&[("auth_aws", aws()), ("auth_other", other)]);
    let ec2 = |method: &str| call(9, method, "ec2.{region}.amazonaws.com");
    let named = |template: &Template, chosen: &Chosen| {
        let proposal = plainly(template, chosen);
        let named = proposal.bindings.iter().map(|binding| binding.only_named).collect::<Vec<_>>();
        (named, proposal.notes)
    };
    let tied = two(&[ec2("GET")], &[ec2("GET"), call(12, "POST", "sts.amazonaws.com")]);
    let (each, notes) = named(&tied, &both);
    assert_eq!(each, [true, true, false]);
    assert!(notes[0].contains("Countersign-Credential: auth_aws") && notes[0].contains("CALLER+auth_aws"), "{notes:?}");
    // An exact host of the one is among those of the other.
    let exact = call(9, "GET", "ec2.us-east-1.amazonaws.com");
    assert_eq!(named(&two(std::slice::from_ref(&exact), &[ec2("GET")]), &both).0, [true, true]);
    assert_eq!(named(&two(std::slice::from_ref(&exact), &[call(9, "GET", "{host}")]), &both).0, [true, true]);
    // Something decides: the method, the host, or that it is one credential.
    assert_eq!(named(&two(&[ec2("GET")], &[ec2("POST")]), &both), (vec![false, false], vec![]));
    let sts = call(9, "GET", "sts.us-east-1.amazonaws.com");
    assert_eq!(named(&two(&[ec2("GET")], &[sts]), &both), (vec![false, false], vec![]));
    let same = chosen(&[("auth_aws", aws()), ("auth_other", aws())]);
    assert_eq!(named(&tied, &same).0, [false, false, false]);
    // One role in two accounts is two.
    let mut accounts = two(std::slice::from_ref(&exact), std::slice::from_ref(&exact));
    accounts.credentials[0].account_number = Some("123456789012".into());
    assert_eq!(named(&accounts, &same).0, [true, true]);
}

#[test]
fn blocks_of_one_name_are_one() {
    let template = template(&[
        spot_block(&[call(9, "GET", "api.spotinst.io")]),
        spot_block(&[call(12, "GET", "api.spotinst.io")]),
    ]);
    assert_eq!(plainly(&template, &chosen(&[("auth_spot", spot())])).bindings.len(), 1);
}

#[test]
fn a_template_that_calls_too_many_hosts_is_refused_in_no_time() {
    let uses =
        |count: usize| (0..count).map(|at| call(at + 9, "GET", &format!("h{at}.spotinst.io"))).collect::<Vec<_>>();
    let own = chosen(&[("auth_spot", Candidate { hosts: vec!["*.spotinst.io".into()], ..spot() })]);
    assert_eq!(plainly(&template(&[spot_block(&uses(1000))]), &own).bindings[0].hosts.len(), 1000);
    assert_refused(
        &template(&[spot_block(&uses(1001))]),
        &own,
        &[],
        "auth_spot: the template calls more than 1000 hosts",
    );
    let unsigned = Template { unsigned: uses(1001), ..Template::default() };
    assert_refused(&unsigned, &Chosen::new(), &[], "the template calls more than 1000 hosts");
}

#[test]
fn no_proposal_goes_beyond_the_credentials_or_the_templates_hosts() {
    let mut numbers = Numbers(11);
    let hosts =
        ["a.test", "b.a.test", "{h}.a.test", "x-{h}.a.test", "{h}", "b.{h}.a.test:8443", "{h}.test", "c.{p}.test"];
    let own = ["a.test", "*.a.test", "*.test", "b.a.test", "*.b.a.test:8443"];
    let methods = ["GET", "POST", "{verb}"];
    let tried = ["a.test", "b.a.test", "c.b.a.test", "x-1.a.test", "b.c.a.test:8443", "c.a.test", "q.test"];
    let mut accepted = 0;
    for _ in 0..4_000 {
        let mut uses = |count: usize| -> Vec<Use> {
            let count = 1 + numbers.below(count);
            (0..count).map(|line| call(line, numbers.one(&methods), numbers.one(&hosts))).collect()
        };
        let template = Template {
            parameters: vec![parameter("p", None, &["a", "b"])],
            unsigned: uses(2),
            ..template(&[spot_block(&uses(4)), aws_block(&uses(4))])
        };
        let pick = |id: &str, scheme: &str, numbers: &mut Numbers| {
            candidate(id, scheme, &[numbers.one(&own), numbers.one(&own)], "any")
        };
        let chosen =
            chosen(&[("auth_spot", pick("s", "api_key", &mut numbers)), ("auth_aws", pick("a", "aws", &mut numbers))]);
        let Ok(proposal) = propose(&template, &chosen, &BTreeMap::new(), Options::default()) else { continue };
        accepted += 1;
        assert_eq!(propose(&template, &chosen, &BTreeMap::new(), Options::default()), Ok(proposal.clone()));
        for authority in tried {
            let destination =
                crate::base::Destination::from_authority(crate::base::Protocol::Https, authority).unwrap();
            let matches = |hosts: &[String], shapes: &[String]| {
                hosts.iter().any(|host| HostPattern::parse(host).unwrap().matches(&destination))
                    && (shapes.is_empty()
                        || shapes.iter().any(|shape| HostShape::parse(shape).unwrap().matches(&destination)))
            };
            let means = |uses: &[Use]| {
                let places = Places::of(uses, &template, &BTreeMap::new());
                places.all.iter().any(|place| place.shape.matches(&destination))
            };
            for block in &template.credentials {
                let own = &chosen[&block.name].as_ref().unwrap().hosts;
                let bound = proposal.bindings.iter().filter(|binding| binding.block == block.name);
                let bound = bound.filter(|binding| matches(&binding.hosts, &binding.shapes)).count() > 0;
                assert_eq!(
                    bound,
                    means(&block.uses) && matches(own, &[]),
                    "{authority} {block:?} {own:?} {proposal:?}"
                );
            }
            let passes = proposal.passages.iter().any(|passage| matches(&passage.hosts, &passage.shapes));
            assert!(!passes || means(&template.unsigned), "{authority} {template:?} {proposal:?}");
        }
        for (at, one) in proposal.bindings.iter().enumerate() {
            for two in proposal.bindings.iter().skip(at + 1).filter(|two| two.block != one.block) {
                let method = one.methods.is_empty()
                    || two.methods.is_empty()
                    || one.methods.iter().any(|m| two.methods.contains(m));
                if one.hosts == two.hosts && method {
                    assert!(one.only_named && two.only_named, "{proposal:?}");
                }
            }
        }
    }
    assert!(accepted > 500, "{accepted}");
}
