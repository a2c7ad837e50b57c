//! `AdmissionReview` of admission.k8s.io/v1: what the API server asks, and what it is answered.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::pod::patch;
use super::settings::Settings;

/// The answer to a review.
///
/// # Errors
/// What is malformed about it; the API server then fails as the webhook's `failurePolicy` says.
pub fn answer(review: &[u8], settings: &Settings) -> Result<Value, String> {
    let review: Value = serde_json::from_slice(review).map_err(|_| "the review is no JSON".to_owned())?;
    if review["apiVersion"] != "admission.k8s.io/v1" || review["kind"] != "AdmissionReview" {
        return Err("an AdmissionReview of admission.k8s.io/v1 is expected".into());
    }
    let request = &review["request"];
    let uid = request["uid"].as_str().filter(|uid| !uid.is_empty()).ok_or("the review has no uid")?;
    let namespace = request["namespace"].as_str().ok_or("the review names no namespace")?;
    if !request["object"].is_object() {
        return Err("the review has no object".into());
    }
    let outcome = match request["kind"]["kind"].as_str() {
        Some("Pod") if request["operation"] == "CREATE" => patch(&request["object"], namespace, settings),
        _ => Err("pods that are created are given a sidecar, and nothing else".into()),
    };
    let response = match outcome {
        Ok(patch) if patch.is_empty() => json!({"uid": uid, "allowed": true}),
        Ok(patch) => {
            let patch = STANDARD.encode(Value::Array(patch).to_string());
            json!({"uid": uid, "allowed": true, "patchType": "JSONPatch", "patch": patch})
        }
        Err(why) => {
            tracing::info!(namespace, why, "a pod is not admitted");
            json!({"uid": uid, "allowed": false, "status": {"code": 403, "message": format!("countersign: {why}")}})
        }
    };
    Ok(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
}
