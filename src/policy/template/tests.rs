//! Templates are read from the fixtures of `tests/policies`, from what is made of them, and from texts at random.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::*;

fn fixtures() -> Vec<(PathBuf, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/policies");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "pt")).collect();
    paths.sort();
    assert!(paths.len() >= 5, "{paths:?}");
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

fn parse(text: &str) -> Template {
    Template::parse(text.as_bytes())
}

/// `METHOD host path` of each use of a block, with the line before it.
fn uses(template: &Template, block: &str) -> Vec<String> {
    let block = template.credentials.iter().find(|one| one.name == block).unwrap();
    block.uses.iter().map(|one| format!("{} {} {} {}", one.line, one.method, one.host, one.path)).collect()
}

fn errors(template: &Template) -> Vec<String> {
    template.errors.iter().map(|error| format!("{}:{} {}", error.line, error.column, error.message)).collect()
}

#[test]
fn every_fixture_is_read_as_it_was_reviewed() {
    for (path, text) in fixtures() {
        let expected = std::fs::read_to_string(path.with_extension("json")).unwrap();
        let expected: Json = serde_json::from_str(&expected).unwrap();
        let read = serde_json::to_value(parse(&text)).unwrap();
        // Both texts have a line for each fact, so that the first one that differs is the one to look at.
        let (read, expected) = (format!("{read:#}"), format!("{expected:#}"));
        for (number, (read, expected)) in read.lines().zip(expected.lines()).enumerate() {
            let file = path.display();
            assert_eq!(read, expected, "{file}, line {} of the report; see policy inspect --json {file}", number + 1);
        }
        assert_eq!(read.lines().count(), expected.lines().count(), "{}", path.display());
    }
}

#[test]
fn line_ends_and_a_byte_order_mark_change_nothing() {
    for (path, text) in fixtures() {
        let read = parse(&text);
        assert_eq!(parse(&text.replace('\n', "\r\n")), read, "{}", path.display());
        assert_eq!(parse(&format!("\u{feff}{text}")), read, "{}", path.display());
    }
}

#[test]
fn what_is_no_utf_8_is_read_around() {
    let text =
        b"# \xff\xfe\ncredentials \"auth_x\" do\n  schemes \"basic\"\n  label \"a\xffb\"\n  tags \"a=\xc3\"\nend\n\xff";
    let template = Template::parse(text);
    assert_eq!(template.errors, []);
    let block = &template.credentials[0];
    assert_eq!((block.line, block.label.as_deref()), (2, Some("a\u{fffd}b")));
    assert_eq!(block.tags["a"], "\u{fffd}");
}

#[test]
fn an_error_has_its_line_and_its_column_in_characters() {
    let text = "name \"é\"; credentials do\n\nend\n\tcredentials \"x\" do schemes \"é\", $y end\n";
    let expected = [
        "1:11 `credentials` has no name: write `credentials \"name\" do`",
        "4:34 a scheme is a text such as \"oauth2\"",
    ];
    assert_eq!(errors(&parse(text)), expected);
}

#[test]
fn only_so_many_errors_are_told_and_the_rest_is_counted() {
    let template = parse(&"credentials\n".repeat(MOST_ERRORS + 5));
    assert_eq!(template.errors.len(), MOST_ERRORS);
    assert!(template.errors[MOST_ERRORS - 1].message.ends_with("(and 5 more errors)"), "{:?}", template.errors.last());
    let template = parse(&"credentials\n".repeat(MOST_ERRORS));
    assert!(!template.errors[MOST_ERRORS - 1].message.contains("more"));
}

/// A template with one block, `auth_x`, and what stands behind it.
fn with(rest: &str) -> Template {
    parse(&format!("credentials \"auth_x\" do schemes \"basic\" end\n{rest}"))
}

/// A template in which a request asks this script what to be.
fn script(code: &str) -> Template {
    with(&format!(
        "datasource \"d\" do\nrequest do\nrun_script $js\nend\nend\nscript \"js\", type: \"javascript\" do\nresult \"request\"\ncode <<-EOS\n{code}\nEOS\nend\n"
    ))
}

#[test]
fn here_documents_end_where_ruby_ends_them() {
    for (text, ends) in [
        ("x <<A\nA\n", true),
        ("x <<A\n  A\n", true),
        ("x <<A\n  A\ncredentials \"no\" do schemes \"basic\" end\nA\n", true),
        ("x <<-A\n  A\n", true),
        ("x <<~A\n\tA \t\r\n", true),
        ("x <<-'A b'\n", true),
        ("x <<A, <<-B # <<C\nA\nB\nA\nB\n", true),
        ("x << A\n", true),
        ("x <<-A\nAB\n A B\nBA\n", false),
        ("x <<A, <<B\nB\nA\n", false),
    ] {
        let template = parse(&format!("{text}credentials \"auth_x\" do schemes \"basic\" end\n"));
        let names: Vec<&str> = template.credentials.iter().map(|block| block.name.as_str()).collect();
        assert_eq!(names, ["auth_x"], "{text:?}");
        assert_eq!(template.errors.is_empty(), ends, "{text:?}: {:?}", template.errors);
    }
}

#[test]
fn a_string_of_several_lines_is_told_from_one_that_does_not_end() {
    let template = with(
        "credentials \"auth_y\" do\n  schemes \"basic\"\n  description \"one\n  end\n  two\"\n  label \"Y\"\nend\n",
    );
    assert_eq!(template.errors, []);
    assert_eq!(template.credentials[1].description.as_deref(), Some("one\n  end\n  two"));
    let template = with("credentials \"auth_y\" do\n  schemes \"basic\"\n  description \"one\n  label \"Y\"\nend\n");
    assert_eq!(errors(&template), ["4:15 this string is not ended: its second quote is missing"]);
    assert_eq!(template.credentials[1].label.as_deref(), Some("Y"));
}

#[test]
fn javascript_is_not_misread_where_it_looks_like_something_else() {
    for (code, expected) in [
        ("request = { auth: 'auth_x', host: 'a.test', path: '/' }", "a.test /"),
        ("// request = { auth: 'no' }\nrequest = { auth: 'auth_x', /* host: 'no', */ host: 'a.test' }", "a.test /"),
        ("var r = /[/'\"`{]/; x = a / b / c; request = { auth: 'auth_x', host: 'a.test' }", "a.test /"),
        ("s = \"\\\"}\"; t = '{'; u = `${ `}` }`; request = { auth: `auth_x`, host: `a.${b.c}.test` }", "a.{c}.test /"),
        ("request = {}\nrequest.auth = 'auth_x'; request['host'] = ['a', x.y, 'test'].join('.')", "a.{y}.test /"),
        (
            "let h = x?.['region'] ?? 'eu', p = '/a' + 1\nrequest = { auth: 'auth_x', host: 'a.test', path: p + '?q=' + h }",
            "a.test /a1",
        ),
        (
            "var host = 'a.test', path = '/p', auth = 'auth_x'; request = { auth, host, path, get() { return '}' } }",
            "a.test /p",
        ),
        ("var base = { auth: 'auth_x', host: 'a.test' }; request = { ...base, path: '/s' }", "a.test /s"),
        (
            "function f(host) { return 1 } request = { auth: 'auth_x', host: host, path: g(function() { return { a: 1 } }) }",
            "{host} {value}",
        ),
        ("request = { auth: 'auth_x', host: table[key], path: 'x/' + -1 + '#f' }", "{table} /x/{value}"),
        ("request = { auth: 'auth_x', host: (a, 'b.test'), path: x => { return y } }", "b.test {value}"),
        ("request = { auth: 'auth_x', url: 'HTTPS://A.test:8443/P/' + id + '?x' }", "a.test:8443 /P/{id}"),
        ("request = { auth: 'auth_x', host: 'https://a.test/base', path: '/p' }", "a.test /base/p"),
        ("request = { auth: 'auth_x', url: base + '/p' }", "{base} /p"),
        (
            "p = []; p.push('/a'); request = { auth: 'auth_x', host: 'a.test', path: '/x/' + p.join('') }",
            "a.test /x/{value}",
        ),
        ("now = new Date().getTime(); request = { auth: 'auth_x', host: 'a.test', path: '/' + now }", "a.test /{now}"),
        ("request = { host: 'a.test' }; _.extend(request, { auth: 'auth_x', path: '/e' })", "a.test /e"),
        ("request = { auth: 'auth_x', url: 'https://' + host + path }", "{host} {path}"),
    ] {
        let template = script(code);
        assert_eq!(template.errors, [], "{code}");
        let uses = uses(&template, "auth_x");
        let shown: Vec<&str> = uses.iter().map(|one| one.split_once(" GET ").unwrap().1).collect();
        assert_eq!(shown, [expected], "{code}");
    }
}

#[test]
fn a_credential_that_is_not_told_is_told_from_one_that_does_not_exist() {
    let not_told =
        "the text does not tell which `credentials` block authenticates the request to `a.test`, so a run's is refused";
    for (text, message) in [
        (
            "datasource \"d\" do request do auth $auth_y host \"a.test\" end end",
            "there is no `credentials` block called `auth_y`",
        ),
        (
            "define f() do\nhttp_get(auth: $$auth_y, url: \"https://a.test\")\nend",
            "there is no `credentials` block called `auth_y`",
        ),
        ("define f($p) do\nhttp_get(auth: $p[\"auth\"], url: \"https://a.test\")\nend", not_told),
    ] {
        let template = with(text);
        let messages: Vec<&str> = template.errors.iter().map(|error| error.message.as_str()).collect();
        assert_eq!(messages, [message], "{text}");
        assert!(template.unsigned.is_empty() && template.credentials[0].uses.is_empty());
    }
    let template = script("request = { auth: which, host: 'a.test' }");
    assert_eq!(template.errors[0].message, not_told);
    let known = with("define f() do\n$a = $$auth_x\nhttp_get(auth: $a, url: \"https://a.test\")\nend");
    assert_eq!((known.errors.len(), known.credentials[0].uses.len()), (0, 1));
}

#[test]
fn what_a_branch_may_do_is_one_of_several_uses() {
    for (code, expected) in [
        ("if (a) { request.verb = 'DELETE' }", &["GET", "DELETE"][..]),
        ("if (a) request.verb = 'DELETE'", &["GET", "DELETE"]),
        ("request.verb = 'DELETE'", &["DELETE"]),
        (
            "request.verb = 'PUT'; if (a) { request.verb = 'POST' } else { request.verb = 'PATCH' }",
            &["PUT", "POST", "PATCH"],
        ),
        ("if (a) { request.verb = 'PUT'; request.verb = 'POST' }; request.verb = 'PATCH'", &["PATCH"]),
        ("request.verb = a ? 'put' : b ? 'Post' : c", &["PUT", "POST", "{c}"]),
        ("switch (a) { case 1: request.verb = 'PUT'; break; default: request.verb = 'POST' }", &["GET", "PUT", "POST"]),
        ("request.headers.verb = 'DELETE'", &["GET"]),
    ] {
        let template = script(&format!("request = {{ auth: 'auth_x', host: 'a.test' }}\n{code}"));
        let methods: Vec<&str> = template.credentials[0].uses.iter().map(|one| one.method.as_str()).collect();
        assert_eq!(methods, expected, "{code}");
    }
    for (code, expected) in [
        ("x && (request.verb = 'DELETE')", &["GET a.test", "DELETE a.test"][..]),
        ("y ? request.host = 'd.test' : null", &["GET a.test", "GET d.test"]),
        ("y || (z = request.verb = 'PUT')", &["GET a.test", "PUT a.test"]),
        ("y && request.headers.verb == 'DELETE'; y && (request.headers.verb = 'DELETE')", &["GET a.test"]),
        ("request['ver' + 'b'] = 'DELETE'", &["GET a.test", "GET {value}", "{value} a.test", "{value} {value}"]),
        (
            "for (k in more) { request[k] = more[k] }",
            &["GET a.test", "GET {value}", "{value} a.test", "{value} {value}"],
        ),
        ("request['verb'] = 'PUT'; request.headers[k] = 'x'", &["PUT a.test"]),
        (
            "switch (a) { case 1: v = 'PUT'; break; case 2: v = 'POST' } request.verb = v",
            &["GET a.test", "PUT a.test", "POST a.test"],
        ),
        ("if (a) { v = 'PUT' } request = { auth: 'auth_x', host: 'a.test', verb: v }", &["GET a.test", "PUT a.test"]),
        ("if (a) { verb = 'PUT' } request = { auth: 'auth_x', host: 'a.test', verb }", &["GET a.test", "PUT a.test"]),
        ("v = 'PUT'; if (a) { v = 'POST' } request.verb = v", &["PUT a.test", "POST a.test"]),
        ("f = function() { var v = 'PUT'; request.verb = v }", &["GET a.test", "PUT a.test"]),
    ] {
        let template = script(&format!("request = {{ auth: 'auth_x', host: 'a.test' }}\n{code}"));
        let mut found: Vec<String> =
            template.credentials[0].uses.iter().map(|one| format!("{} {}", one.method, one.host)).collect();
        found.sort();
        found.dedup();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(found, expected, "{code}");
    }
}

#[test]
fn what_is_wrong_says_the_block_that_it_is_about() {
    let block = "credentials \"auth_y\" do\n  schemes \"basic\"\n  description <<-EOS\n";
    let long = format!("{block}{}EOS\n  tags 'x'\nend\n", "a line\n".repeat(50));
    for (text, about) in [
        (long.as_str(), Some("auth_y")),
        ("datasource \"d\" do\nrequest do\nauth $auth_x\nhost join([\"a\"\nend\nend", Some("auth_x")),
        ("define f() do\nhttp_get(auth: $$auth_x, url: \"https://a.test\"\nend", Some("auth_x")),
        ("datasource \"d\" do\nrequest do\nauth $auth_z\nhost \"a\"\nend\nend", None),
        ("datasource \"d\" do request do auth $auth_x host \"a\" end request do auth $auth_z host \"b\" end end", None),
        ("credentials \"auth_x\" do schemes \"basic\" end", Some("auth_x")),
        ("credentials \"auth_y\" do schemes \"basic\" end parameter do\nend", None),
        (
            "define f($p) do\nhttp_get(auth: $$auth_x, url: \"https://a.test\"); http_get(auth: $p[\"a\"], url: \"https://b.test\")\nend",
            None,
        ),
    ] {
        let template = with(text);
        let mut abouts: Vec<_> = template.errors.iter().map(|error| error.block.as_deref()).collect();
        abouts.dedup();
        assert_eq!(abouts, [about], "{text}: {:?}", template.errors);
    }
}

#[test]
fn each_of_two_credentials_that_one_variable_may_hold_is_used() {
    let two = |text: &str| {
        parse(&format!(
            "credentials \"auth_a\" do schemes \"basic\" end\ncredentials \"auth_b\" do schemes \"basic\" end\n{text}"
        ))
    };
    let chosen = "define f($x) do
if $x
  $auth = $$auth_b
else
  $auth = $$auth_a
end
http_request(auth: $auth, https: true, host: \"one.test\", href: \"/\")
end
";
    let template = two(chosen);
    assert_eq!(template.errors, []);
    assert_eq!(uses(&template, "auth_a"), ["9 GET one.test /"]);
    assert_eq!(uses(&template, "auth_b"), ["9 GET one.test /"]);
    // Two that run one script are not mixed up.
    let shared = "datasource \"d\" do request do run_script $js, $auth_a, \"one.test\" end end
datasource \"e\" do request do run_script $js, $auth_b, \"two.test\" end end
datasource \"f\" do request do run_script $js, $auth_b, \"two.test\" end end
script \"js\", type: \"javascript\" do
  parameters \"auth\", \"host\"
  result \"request\"
  code \"request = { auth: auth, host: host, path: '/' }\"
end
";
    let template = two(shared);
    assert_eq!(template.errors, []);
    assert_eq!(uses(&template, "auth_a"), ["9 GET one.test /"]);
    assert_eq!(uses(&template, "auth_b"), ["9 GET two.test /"]);
    // Of very many, the last are taken together: more is told then than there is, and nothing is lost.
    let many: String = (0..MOST_CALLERS + 3)
        .map(|n| format!("datasource \"d{n}\" do request do run_script $js, $auth_a, \"h{n}.test\" end end\n"))
        .collect();
    let template = two(&(many + &shared.lines().skip(3).map(|line| format!("{line}\n")).collect::<String>()));
    assert_eq!((template.errors.len(), template.credentials[0].uses.len()), (0, MOST_CALLERS + 3));
}

#[test]
fn what_a_function_returns_and_what_a_body_holds_is_told_apart() {
    for (code, expected) in [
        (
            "request = { auth: 'auth_x', host: 'a.test', body: { auth: 'auth_x', host: 'no.test' } }",
            &["GET a.test"][..],
        ),
        (
            "request = { auth: 'auth_x', host: 'a.test', body_fields: { items: [{ auth: 'auth_x', path: '/no' }] } }",
            &["GET a.test"],
        ),
        (
            "b = { auth: 'auth_x', host: 'no.test' }; request = { auth: 'auth_x', host: 'a.test' }; request.body = b",
            &["GET a.test"],
        ),
        (
            "b = { auth: 'auth_x', host: 'b.test' }; request = { auth: 'auth_x', host: 'a.test' }",
            &["GET b.test", "GET a.test"],
        ),
        ("base = { auth: 'auth_x', host: 'a.test' }; request = _.extend({}, base, { verb: 'PUT' })", &["PUT a.test"]),
        (
            "base = { auth: 'auth_x', host: 'a.test' }; request = Object.assign({}, base, { verb: 'PUT' })",
            &["PUT a.test"],
        ),
        ("base = { auth: 'auth_x', host: 'a.test' }; request = _.assign({ host: 'b.test' }, base)", &["GET a.test"]),
        ("base = { auth: 'auth_x', host: 'a.test' }; request = _.defaults({ host: 'b.test' }, base)", &["GET b.test"]),
        (
            "base = { auth: 'auth_x', host: 'a.test' }; request = _.clone(base); request.host = 'b.test'",
            &["GET b.test"],
        ),
    ] {
        let template = script(code);
        assert_eq!(template.errors, [], "{code}");
        let found: Vec<String> =
            template.credentials[0].uses.iter().map(|one| format!("{} {}", one.method, one.host)).collect();
        assert_eq!(found, expected, "{code}");
    }
    for code in [
        "request = make()\nfunction make() { return { auth: 'auth_x', host: 'a.test', verb: 'PUT' } }",
        "request = _.map(list, function(item) { if (item) return { auth: 'auth_x', host: 'a.test' }; return; })",
        "one = { auth: 'auth_x', host: 'a.test' }; request = change(one)",
    ] {
        let template = script(code);
        assert_eq!(template.errors[0].message, "the text does not tell what request the script `js` makes", "{code}");
        let found: Vec<_> = template.credentials[0].uses.iter().map(|one| (&*one.method, &*one.host)).collect();
        assert_eq!(found, [("{value}", "a.test")], "{code}");
    }
}

#[test]
fn a_value_may_stand_on_the_line_behind_its_field_and_is_missed_where_it_does_not() {
    let template = with(
        "datasource \"d\" do\nrequest do\nauth\n  $auth_x\nhost\n  \"later.test\"\npath\n  join([\"/\", $a])\nend\nend\n",
    );
    assert_eq!(template.errors, []);
    assert_eq!(uses(&template, "auth_x"), ["4 GET later.test /{a}"]);
    let template = with("datasource \"d\" do\nrequest do\nauth $auth_x\nhost\npath \"/a\"\nverb\nend\nend\n");
    assert_eq!(errors(&template), ["5:1 `host` has no value", "7:1 `verb` has no value"]);
    assert_eq!(uses(&template, "auth_x"), ["4 GET {value} /a"]);
    let block = &parse("credentials \"auth_x\" do\n  schemes\n    \"basic\"\n  tags\n    \"a=b\"\n  label\nend\n")
        .credentials[0];
    assert_eq!((&block.schemes[..], block.tags.len(), &block.label), (&["basic".to_owned()][..], 1, &None));
}

#[test]
fn a_script_knows_its_arguments_only_where_they_say_more() {
    let text = "parameter \"param_host\" do type \"string\" default \"a.test\" end
datasource \"d\" do request do run_script $js, $param_host, val(iter_item, \"zone\"), \"v2\", rs_org_id end end
datasource \"e\" do request do run_script $js, $param_host, val(iter_item, \"zone\"), \"v3\" end end
script \"js\", type: \"javascript\" do
  parameters \"host\", \"region\", \"version\", \"org\"
  result \"request\"
  code \"request = { auth: 'auth_x', host: host, path: '/' + version + '/' + region + '/' + org }\"
end
";
    let template = with(text);
    assert_eq!(template.errors, []);
    let expected = ["8 GET {param_host} /v2/{region}/{rs_org_id}", "8 GET {param_host} /v3/{region}/{org}"];
    assert_eq!(uses(&template, "auth_x"), expected);
}

#[test]
fn two_scripts_of_a_request_share_what_authenticates_it() {
    let both = "datasource \"d\" do request do auth $auth_x run_script $js end end
script \"js\", type: \"javascript\" do result \"request\" code \"request = { host: 'a.test' }\" end\n";
    assert_eq!(uses(&with(both), "auth_x"), ["2 GET a.test /"]);
    let neither = both.replace("auth $auth_x ", "");
    assert_eq!(with(&neither).unsigned.len(), 1);
}

#[test]
fn a_definition_ends_where_its_own_end_is() {
    let calls = "http_get(url: \"https://a.test/\", auth: $$auth_x)";
    for body in [
        "if $a\n  $b = 1\nend\n",
        "if $a == \"end\" # end\n  while $b do\n  end\nelsif $c\n  $d = { end: 1, do: 2 }\nelse\nend\n",
        "foreach $a in $b do if $c\n $d = 1\n end end\n",
        "$a << $b\n$a <<$c\n$x = 4 / 2\n",
        "sub on_error: skip do\n  raise \"if\" + \"do\"\nend\n",
    ] {
        let text =
            format!("define f($a) return $b do\n{body}{calls}\nend\ncredentials \"auth_y\" do schemes \"jwt\" end\n");
        let template = with(&text);
        assert_eq!(template.errors, [], "{body}");
        assert_eq!((template.credentials.len(), template.credentials[0].uses.len()), (2, 1), "{body}");
    }
    let open = with(&format!("define f() do\nif $a\n{calls}\nend\ncredentials \"auth_y\" do schemes \"jwt\" end\n"));
    assert_eq!(errors(&open), ["2:1 this block is not ended: its `end` is missing"]);
    assert_eq!((open.credentials.len(), open.credentials[0].uses.len()), (2, 1));
}

/// Numbers that look random and are the same every time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

const SCRAPS: &[&str] = &[
    "credentials \"auth_x\" do ",
    "end",
    "end\n",
    "\n",
    " ",
    "do",
    "\"",
    "'",
    "`",
    "#",
    "//",
    "/*",
    "*/",
    "/",
    "x /[/[/[",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "${",
    "$x",
    "$$auth_x",
    "<<-EOS\n",
    "\nEOS\n",
    "<<",
    "schemes ",
    "tags ",
    "label ",
    ",",
    ";",
    ":",
    "=",
    "=>",
    "+",
    "?",
    ".",
    "\\",
    "é",
    "\u{feff}",
    "\r",
    "\0",
    "datasource \"d\" do ",
    "request do ",
    "auth $auth_x ",
    "host ",
    "path ",
    "join([",
    "run_script $js ",
    "script \"js\", type: \"javascript\" do result \"request\" code ",
    "request = ",
    "auth: 'auth_x'",
    "host: ",
    "define f() do ",
    "http_get(",
    "url: ",
    "if ",
    "else ",
    "function(a) ",
    "x = x + x\n",
    "x = [x, x]\n",
    "parameter \"p\" do ",
    "default ",
    "case 1:",
];

#[test]
fn reading_is_total_and_its_positions_lie_within_the_text() {
    let mut numbers = Numbers(7);
    let fixtures = fixtures();
    for _ in 0..1500 {
        let mut text = Vec::new();
        for _ in 0..numbers.below(60) {
            match numbers.below(4) {
                0 => {
                    let (_, whole) = &fixtures[numbers.below(fixtures.len())];
                    let from = numbers.below(whole.len());
                    text.extend(whole.bytes().skip(from).take(numbers.below(400)));
                }
                1 => text.push(u8::try_from(numbers.below(256)).unwrap()),
                _ => text.extend(numbers.one(SCRAPS).bytes()),
            }
        }
        let template = Template::parse(&text);
        let lines = text.iter().filter(|byte| **byte == b'\n').count() + 1;
        let places = template.errors.iter().map(|error| (error.line, error.column));
        let blocks =
            template.credentials.iter().flat_map(|block| block.uses.iter().map(|one| one.line).chain([block.line]));
        for (line, column) in places.chain(blocks.map(|line| (line, 1))) {
            assert!((1..=lines).contains(&line) && column >= 1, "{}", String::from_utf8_lossy(&text));
        }
    }
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    for unit in
        ["(", "[", "{", "a ? ", "a => ", "function f(a) { ", "x = { a: ", "f(", "`${", "await ", "!", "if (a) ", "a.b["]
    {
        script(&unit.repeat(20_000));
        with(&format!("datasource \"d\" do request do host {}", unit.repeat(20_000)));
        with(&format!("define f() do\nhttp_get(url: {}", unit.repeat(20_000)));
    }
}

/// Each of these took hours when every one of its pieces looked through all that follow.
#[test]
fn what_a_text_repeats_is_not_looked_through_again_and_again() {
    for (unit, before) in [("/[", "x "), ("/[ ", "x = "), ("'", "x = "), ("`${", ""), ("/*", ""), ("{ auth: ", "x = ")]
    {
        script(&format!("{before}{}", unit.repeat(1_000_000 / unit.len())));
    }
    let define = "define f() do\n$a <<A\nauth\nend\n";
    with(&define.repeat(10_000));
    with(&"datasource \"d\" do request do auth $auth_x host $h end end ".repeat(10_000));
    let hosts: String =
        (0..10_000).map(|n| format!("datasource \"d\" do request do auth $auth_x host \"h{n}\" end end ")).collect();
    assert_eq!(with(&hosts).credentials[0].uses.len(), 10_000);
    let schemes: Vec<String> = (0..100_000).map(|number| format!("s{number}")).collect();
    let template = parse(&format!("credentials \"auth_x\" do schemes {}\nend", schemes.join(", ")));
    assert_eq!(template.credentials[0].schemes.len(), 64);
    assert!(template.errors[0].message.starts_with("more than 64 schemes"), "{:?}", template.errors);
    let all = parse(&format!("credentials \"auth_x\" do schemes {}\nend", schemes[..64].join(", ")));
    assert_eq!((all.credentials[0].schemes.len(), all.errors.len()), (64, 0));
}

/// Writes a string so that it is read as this text.
fn quoted(text: &str, numbers: &mut Numbers) -> String {
    if numbers.below(2) == 0 {
        return format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"));
    }
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Writes a block in a layout at random.
fn rendered(block: &Block, numbers: &mut Numbers, text: &mut String) {
    let one_line = numbers.below(3) == 0;
    let between = |numbers: &mut Numbers| match (one_line, numbers.below(4)) {
        (true, 0) => "; ".to_owned(),
        (true, _) => " ; ".to_owned(),
        (false, 0) => " # end \"credentials 'x' do\n".to_owned(),
        (false, 1) => "\r\n\t".to_owned(),
        (false, 2) => "\n\n# end\n  ".to_owned(),
        (false, _) => "\n  ".to_owned(),
    };
    let list = |items: Vec<String>, numbers: &mut Numbers| {
        let comma = if one_line { ", " } else { numbers.one(&[", ", ",", ",\n    ", ", # and\n  ", " , "]) };
        let items = items.iter().map(|item| quoted(item, numbers)).collect::<Vec<_>>().join(comma);
        if numbers.below(4) == 0 { format!("[{items}]") } else { items }
    };
    let mut fields = vec![format!("schemes {}", list(block.schemes.clone(), numbers))];
    if let Some(label) = &block.label {
        fields.push(format!("label {}", quoted(label, numbers)));
    }
    match &block.description {
        Some(lines) if !one_line && numbers.below(2) == 0 => {
            let tag = numbers.one(&["EOS", "TEXT_1", "É"]);
            fields.push(format!("description <<-{tag} # a here-document\n{lines}\n  {tag}"));
        }
        Some(lines) => fields.push(format!("description {}", quoted(lines, numbers))),
        None => {}
    }
    if !block.tags.is_empty() {
        let tags = block.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        fields.push(format!("tags {}", list(tags, numbers)));
    }
    if let Some(account) = &block.account_number {
        fields.push(format!("aws_account_number {account}"));
    }
    // In any order.
    for last in (1..fields.len()).rev() {
        fields.swap(last, numbers.below(last + 1));
    }
    write!(text, "credentials {} do", quoted(&block.name, numbers)).unwrap();
    let ends_with_text = |field: &String| field.contains("<<-");
    for field in &fields {
        let gap = between(numbers);
        write!(text, "{}{field}", if gap.starts_with(';') || gap.starts_with(" ;") { " " } else { &gap }).unwrap();
        text.push_str(if one_line { ";" } else { "" });
        if ends_with_text(field) {
            text.push('\n');
        }
    }
    text.push_str(if one_line { " end" } else { "\nend" });
    text.push_str(numbers.one(&["\n", " # end\n", "\r\n\r\n", "\n\n\n"]));
}

#[test]
fn a_block_reads_the_same_however_it_is_laid_out() {
    const SCHEMES: &[&str] = &["aws", "aws_sts", "basic", "digest", "ntlm", "api_key", "jwt", "oauth2", "oracle"];
    const TEXTS: &[&str] = &[
        "AWS",
        "a \"quoted\" 'word'",
        "end",
        "do # no comment",
        "credentials \"auth_in\" do",
        "back\\slash",
        "é – 認証",
        "a, b; c",
        "<<-EOS",
        "",
    ];
    let mut numbers = Numbers(11);
    for round in 0..400 {
        let mut text = String::new();
        let mut blocks = Vec::new();
        for number in 0..1 + numbers.below(6) {
            let mut block = Block {
                name: format!("auth_{number}"),
                schemes: vec![numbers.one(SCHEMES).into()],
                ..Block::default()
            };
            let more = numbers.one(SCHEMES).to_owned();
            if !block.schemes.contains(&more) {
                block.schemes.push(more);
            }
            block.label = (numbers.below(3) > 0).then(|| numbers.one(TEXTS).into());
            block.description = (numbers.below(3) > 0).then(|| numbers.one(TEXTS).into());
            for _ in 0..numbers.below(3) {
                block.tags.insert(format!("key{}", numbers.below(3)), numbers.one(TEXTS).into());
            }
            block.account_number = match numbers.below(3) {
                0 => Some("$param_aws_account_number".into()),
                1 => Some("012345678901".into()),
                _ => None,
            };
            text.push_str(numbers.one(&[
                "",
                "# credentials \"no\" do\n",
                "category \"x\" # end\n",
                "\n\n",
                "x <<-A\nend\nA\n",
            ]));
            block.line = text.matches('\n').count() + 1;
            rendered(&block, &mut numbers, &mut text);
            blocks.push(block);
        }
        let template = parse(&text);
        assert_eq!(template.errors, [], "round {round}:\n{text}");
        assert_eq!(template.credentials, blocks, "round {round}:\n{text}");
    }
}
