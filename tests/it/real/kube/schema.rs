//! Our definition of the kind in the place of the field's: a superset, and nothing that is stored is lost.
//!
//! A definition that lacks a property erases it from storage at the next write of the object, and one that is
//! narrower refuses the next write. Both are compared property by property, and then tried: an offer that uses
//! everything that the field's definition knows, our definition applied over it as the page tells an operator to,
//! and a verifier that writes status before and after.

use std::{
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Map, Value, json};

use super::rbac::{Documented, VISIBLE, becomes, condition};
use crate::{
    docs::read,
    harness::SELLER,
    parts::{
        control_plane::{ADMIN_TOKEN, ControlPlane, offer},
        require,
    },
};

const FIELD: &str = include_str!("field-crd.yaml");
const SCHEMA: &str = "/spec/versions/0/schema/openAPIV3Schema";

/// What the binary prints with these flags.
pub(super) fn printed(flags: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_x402-verifier"))
        .arg("crd")
        .args(flags)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs kubectl as the administrator; whether it succeeded, and both of what it said.
pub(super) fn kubectl(
    control: &ControlPlane,
    args: &[&str],
    stdin: &str,
) -> (bool, String, String) {
    let mut child = Command::new(require("kube").join("kubectl"))
        .env(
            "KUBECONFIG",
            control.kubeconfig(control.address(), ADMIN_TOKEN),
        )
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(stdin.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.success(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Where `ours` would lose or refuse what `field` takes.
fn narrower(path: &str, field: &Value, ours: &Value, found: &mut Vec<String>) {
    let mut differ = |what: &str| {
        found.push(format!(
            "{path}: {what} {} became {}",
            field[what], ours[what]
        ));
    };
    for word in [
        "type",
        "default",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
    ] {
        if ours[word] != field[word] && (word == "type" || !field[word].is_null()) {
            differ(word);
        }
    }
    for word in ["pattern", "format"] {
        // Integers are 64 bits for an API server, said or not.
        let said = ours[word].is_null() || ours[word] == field[word] || ours[word] == "int64";
        if !said {
            differ(word);
        }
    }
    let number = |schema: &Value, word: &str| schema[word].as_f64();
    for word in ["minimum", "minLength", "minItems"] {
        let (theirs, limit) = (number(field, word), number(ours, word));
        if limit.is_some_and(|limit| theirs.is_none_or(|theirs| theirs < limit)) {
            differ(word);
        }
    }
    for word in ["maximum", "maxLength", "maxItems", "maxProperties"] {
        let (theirs, limit) = (number(field, word), number(ours, word));
        if limit.is_some_and(|limit| theirs.is_none_or(|theirs| theirs > limit)) {
            differ(word);
        }
    }
    let list = |schema: &Value, word: &str| schema[word].as_array().cloned();
    if let Some(allowed) = list(ours, "enum") {
        let theirs = list(field, "enum");
        if theirs.is_none_or(|theirs| !theirs.iter().all(|value| allowed.contains(value))) {
            differ("enum");
        }
    }
    let theirs = list(field, "required").unwrap_or_default();
    let required = list(ours, "required").unwrap_or_default();
    if !required.iter().all(|name| theirs.contains(name)) {
        differ("required");
    }
    for (name, property) in field["properties"].as_object().unwrap_or(&Map::new()) {
        let path = format!("{path}.{name}");
        match ours["properties"].get(name) {
            Some(ours) => narrower(&path, property, ours, found),
            None => found.push(format!("{path}: lost")),
        }
    }
    for below in ["items", "additionalProperties"] {
        if field[below].is_object() {
            narrower(
                &format!("{path}.{below}"),
                &field[below],
                &ours[below],
                found,
            );
        }
    }
}

#[test]
fn our_definition_takes_everything_that_the_fields_takes() {
    let field: Value = serde_saphyr::from_str(FIELD).unwrap();
    let ours: Value = serde_saphyr::from_str(&printed(&[])).unwrap();
    let schema = |crd: &Value| crd.pointer(SCHEMA).unwrap().clone();
    let mut found = Vec::new();
    narrower("", &schema(&field), &schema(&ours), &mut found);
    for part in ["group", "scope", "names"] {
        if field["spec"][part] != ours["spec"][part] {
            found.push(format!("{part}: {}", ours["spec"][part]));
        }
    }
    let version = |crd: &Value| crd["spec"]["versions"][0].clone();
    let (field, ours) = (version(&field), version(&ours));
    for part in ["name", "served", "storage", "subresources"] {
        if field[part] != ours[part] {
            found.push(format!("{part}: {}", ours[part]));
        }
    }
    let columns = ours["additionalPrinterColumns"].as_array().unwrap();
    for column in field["additionalPrinterColumns"].as_array().unwrap() {
        if !columns.contains(column) {
            found.push(format!("column {column}"));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// A value of everything that a schema knows.
fn sample(name: &str, schema: &Value) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("object") if schema["properties"].is_object() => {
            let properties = schema["properties"].as_object().unwrap().iter();
            properties
                .map(|(name, schema)| (name.clone(), sample(name, schema)))
                .collect()
        }
        Some("object") => json!({"key": sample("value", &schema["additionalProperties"])}),
        Some("array") => json!([sample(name, &schema["items"])]),
        Some("integer") => json!(schema["minimum"].as_u64().unwrap_or(0).max(7)),
        Some("boolean") => json!(true),
        _ => json!(match (name, schema["format"].as_str()) {
            (_, Some("date-time")) => "2099-01-02T03:04:05Z",
            ("payTo", _) => SELLER,
            ("address", _) => "0x1111111111111111111111111111111111111111",
            ("network", _) => "base-sepolia",
            ("accentColor", _) => "#abc",
            ("path", _) => "/services/all",
            ("hostname", _) => "all.example",
            ("drainGracePeriod" | "ttl", _) => "72h",
            ("perRequest" | "perMTok" | "perHour" | "perEpoch", _) => "0.5",
            _ => "text",
        }),
    }
}

fn leaves(value: &Value) -> usize {
    match value {
        Value::Object(object) => object.values().map(leaves).sum(),
        Value::Array(items) => items.iter().map(leaves).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

/// Where something of `before` is gone or different; what is new is no loss.
fn lost(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                let now = after.get(name).unwrap_or(&Value::Null);
                lost(&format!("{path}.{name}"), value, now, found);
            }
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (index, (value, now)) in before.iter().zip(after).enumerate() {
                lost(&format!("{path}[{index}]"), value, now, found);
            }
        }
        (before, after) if before == after => {}
        (before, after) => found.push(format!("{path}: {before} became {after}")),
    }
}

/// That the offer still says all of this, our condition aside.
fn assert_kept(offer: &Value, spec: &Value, status: &Value) {
    let mut now = offer["status"].clone();
    let conditions = now["conditions"].as_array_mut().unwrap();
    conditions.retain(|condition| condition["type"] != "PaymentGateEnforced");
    let mut found = Vec::new();
    lost("spec", spec, &offer["spec"], &mut found);
    lost("status", status, &now, &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

#[tokio::test]
async fn under_our_definition_nothing_of_an_offer_that_uses_all_of_the_fields_is_lost() {
    let mut scene = Documented::new(&["shop"]).await;
    scene.apply("cluster", &[]).await;
    let at = ("shop", "all");
    let field: Value = serde_saphyr::from_str(FIELD).unwrap();
    let schema = &field.pointer(SCHEMA).unwrap()["properties"];
    let mut spec = sample("spec", &schema["spec"]);
    // Equal to the first of many, as the field has it.
    spec["payments"] = json!([spec["payment"]]);
    let all = json!({
        "apiVersion": "obol.org/v1alpha1",
        "kind": "ServiceOffer",
        "metadata": {"namespace": "shop", "name": "all"},
        "spec": spec,
    });
    let created = scene.cluster.create_offer(&all).await.unwrap();
    assert_eq!(created["spec"], spec, "the sample is the field's");
    let status = sample("status", &schema["status"]);
    let stored = scene
        .cluster
        .patch_offer_status("shop", "all", &status)
        .await;
    assert_eq!(stored["status"], status);
    let count = leaves(&spec) + leaves(&status);
    assert!(count > 80, "{count}");

    let verifier = scene.start("x402-verifier", &[]).await;
    let says = async |text: &str| {
        verifier
            .eventually(VISIBLE, text, || async {
                let message = condition(&scene.cluster, at).await["message"].clone();
                message
                    .as_str()
                    .is_some_and(|message| message.starts_with(text))
            })
            .await;
    };
    says("generation 1: ").await;
    let before = scene.cluster.offer("shop", "all").await.unwrap();
    assert_kept(&before, &spec, &status);

    // As the pages say, over a definition that somebody else applied: `--server-side` would be a conflict with them.
    for page in ["docs/operating.md", "docs/offers.md"] {
        let text = read(page).replace("\\|", "|");
        assert!(
            text.contains("x402-verifier crd | kubectl apply -f -"),
            "{page}"
        );
    }
    let (ok, said, error) = kubectl(&scene.control, &["apply", "-f", "-"], &printed(&[]));
    assert!(ok, "{said}{error}");
    scene.cluster.await_crd("serviceoffers.obol.org").await;
    let price = json!({"perRequest": "0.25"});
    spec["payment"]["price"]["perRequest"] = json!("0.25");
    spec["payments"][0]["price"]["perRequest"] = json!("0.25");
    let dearer = json!({"spec": {"payment": {"price": price}, "payments": spec["payments"]}});
    scene.cluster.patch_offer("shop", "all", &dearer).await;
    says("generation 2: ").await;
    let after = scene.cluster.offer("shop", "all").await.unwrap();
    assert_kept(&after, &spec, &status);
    assert_eq!(
        condition(&scene.cluster, at).await["observedGeneration"],
        2,
        "and ours has what only our definition keeps"
    );
}

/// R6: what the definition does not serve any more was not deleted.
#[tokio::test]
async fn a_version_that_is_not_served_any_more_is_loss_of_the_api_and_no_deletion() {
    let mut scene = Documented::new(&["shop"]).await;
    scene.apply("cluster", &[]).await;
    let made = offer("shop", "a", "0.001");
    scene.cluster.create_offer(&made).await.unwrap();
    let verifier = scene.start("x402-verifier", &[]).await;
    becomes(&verifier, "a", 402).await;
    let serve = |is_served: bool| {
        let path = "/spec/versions/0/served";
        let patch = json!([{"op": "replace", "path": path, "value": is_served}]).to_string();
        let args = [
            "patch",
            "crd",
            "serviceoffers.obol.org",
            "--type=json",
            "--patch",
            &patch,
        ];
        let (ok, said, error) = kubectl(&scene.control, &args, "");
        assert!(ok, "{said}{error}");
    };
    serve(false);
    let up = ["source=\"kube\""];
    verifier
        .eventually(VISIBLE * 6, "the loss to be told", || async {
            let up = verifier.metric("x402_verifier_source_up", &up).await;
            assert_eq!(verifier.ask("/services/a/x").send().await.status, 402);
            up == Some(0.0)
        })
        .await;
    let routes = verifier.admin("/routes").await.text();
    assert!(routes.contains("does not serve v1alpha1"), "{routes}");
    assert_eq!(verifier.admin("/readyz").await.status, 200);
    serve(true);
    scene.cluster.await_crd("serviceoffers.obol.org").await;
    scene.cluster.delete_offer("shop", "a").await;
    verifier
        .eventually(VISIBLE * 6, "the deletion to be seen", || async {
            verifier.ask("/services/a/x").send().await.status == 410
        })
        .await;
}
