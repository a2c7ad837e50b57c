//! The transparent listener: connections that the kernel redirects, in networks of the test's own.

use crate::support::namespaces::{Namespace, USER_UID, join, possible};
use crate::support::{Origin, Root};

#[tokio::test(flavor = "multi_thread")]
async fn the_test_s_own_network_carries_curl_to_an_origin_over_both_versions_of_ip() {
    let test = "the_test_s_own_network_carries_curl_to_an_origin_over_both_versions_of_ip";
    let Some(()) = possible(test, &[]) else { return };
    let (client, origin) = (Namespace::new("client"), Namespace::new("origin"));
    join((&client, "client"), (&origin, "origin"), 1);
    let root = Root::new();
    let v4 = Origin::on(origin.listen("10.77.1.2:443"), Some((&root, &["api.test"])));
    let v6 = Origin::on(origin.listen("[fd77:1::2]:443"), Some((&root, &["api.test"])));
    for address in ["10.77.1.2", "[fd77:1::2]"] {
        let answer = client.curl(USER_UID, &root.pem(), &[&format!("api.test:443:{address}")], &["https://api.test/x"]);
        assert_eq!(answer.unwrap(), "hello from the origin");
    }
    assert_eq!((v4.only().target.as_str(), v6.only().target.as_str()), ("/x", "/x"));
}
