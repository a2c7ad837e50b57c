//! The one place where a refusal becomes a response: a problem document (RFC 9457) and `Proxy-Status` (RFC 9209).

use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, PROXY_AUTHENTICATE, RETRY_AFTER};
use http::{Response, StatusCode};

use crate::base::{Body, Refusal};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The response for a refusal. The text is for a person, `code` for a program.
pub fn problem(refusal: &Refusal) -> Response<Body> {
    head(refusal).map(|()| Body::full(document(refusal)))
}

fn document(refusal: &Refusal) -> String {
    let document = serde_json::json!({
        "type": format!("urn:countersign:problem:{}", refusal.code.as_str()),
        "title": refusal.code.title(),
        "status": refusal.status.as_u16(),
        "detail": refusal.detail,
        "code": refusal.code.as_str(),
        // What AWS's clients show of an error.
        "message": refusal.detail,
    });
    format!("{document}\n")
}

fn head(refusal: &Refusal) -> Response<()> {
    let (code, fault) = (refusal.code.as_str(), refusal.fault.as_str());
    metrics::counter!("countersign_refusals_total", "code" => code, "fault" => fault).increment(1);
    let mut response = Response::new(());
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(status) = HeaderValue::from_str(&format!("countersign; error={}", refusal.proxy_error)) {
        headers.insert(PROXY_STATUS, status);
    }
    if let Some(after) = refusal.retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
    }
    if refusal.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        headers.insert(PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Countersign\", charset=\"UTF-8\""));
    }
    response
}

/// The same, ready to be written on an HTTP/1.1 connection that ends with it: for what is refused before it is a request.
pub fn problem_bytes(refusal: &Refusal) -> Vec<u8> {
    let (parts, ()) = head(refusal).into_parts();
    let body = document(refusal);
    let reason = parts.status.canonical_reason().unwrap_or("Refused");
    let mut bytes = format!(
        "HTTP/1.1 {} {reason}\r\nconnection: close\r\ncontent-length: {}\r\n",
        parts.status.as_u16(),
        body.len()
    )
    .into_bytes();
    for (name, value) in &parts.headers {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;
    use crate::base::Code;

    #[tokio::test]
    async fn a_refusal_is_a_problem_document_with_a_proxy_status() {
        let refusal = Refusal::new(Code::Overloaded, "too \"much\"").with_retry_after(Duration::from_millis(1));
        let response = problem(&refusal);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["proxy-status"], "countersign; error=connection_limit_reached");
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(document["code"], "overloaded");
        assert_eq!(document["detail"], "too \"much\"");
    }

    #[test]
    fn a_407_says_how_to_authenticate() {
        assert!(problem(&Refusal::new(Code::CallerUnknown, "")).headers().contains_key("proxy-authenticate"));
        assert!(!problem(&Refusal::new(Code::Unbound, "")).headers().contains_key("proxy-authenticate"));
    }
}
