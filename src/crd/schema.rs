//! The kind and its policy as manifests. Both are data, kept as they are applied.

/// The definition of the kind, a superset of the field's (compat 1.18): a definition that lacked a
/// field would erase it from storage at the next write of a status.
const DEFINITION: &str = include_str!("serviceoffers.yaml");
/// The admission policy, which warns.
const POLICY: &str = include_str!("policy.yaml");

/// What differs where the policy denies. With `Warn` a failure to evaluate lets the object pass.
const DENYING: [(&str, &str); 2] = [
    ("failurePolicy: Ignore", "failurePolicy: Fail"),
    ("  - Warn\n  - Audit\n", "  - Deny\n  - Audit\n"),
];

/// The `CustomResourceDefinition` of `ServiceOffer`, as YAML.
#[must_use]
pub const fn definition() -> &'static str {
    DEFINITION
}

/// The `ValidatingAdmissionPolicy` with its binding, as YAML: it warns and audits, or denies.
#[must_use]
pub fn policy(deny: bool) -> String {
    let mut text = POLICY.to_owned();
    if deny {
        for (warning, denying) in DENYING {
            text = text.replace(warning, denying);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn documents(text: &str) -> Vec<Value> {
        serde_saphyr::from_multiple(text).unwrap()
    }

    fn schema() -> Value {
        documents(definition())[0]["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    /// Every field below `schema`, as `spec.payments[].asset.symbol`.
    fn fields(schema: &Value, path: &str, found: &mut Vec<String>) {
        if let Some(properties) = schema["properties"].as_object() {
            for (name, property) in properties {
                let path = format!("{path}.{name}");
                found.push(path.clone());
                fields(property, &path, found);
            }
        }
        if schema["items"].is_object() {
            fields(&schema["items"], &format!("{path}[]"), found);
        }
    }

    #[test]
    fn the_definition_has_every_field_of_the_field() {
        let mut found = Vec::new();
        fields(&schema(), "", &mut found);
        for field in include_str!("fields.txt").lines() {
            assert!(found.iter().any(|found| found == field), "{field}");
        }
    }

    #[test]
    fn every_field_is_described() {
        fn visit(path: &str, schema: &Value) {
            for (name, property) in schema["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                assert!(
                    path == ".metadata" || property["description"].is_string(),
                    "{path}"
                );
                visit(&path, property);
                visit(&path, &property["items"]);
            }
        }
        visit("", &schema());
    }

    #[test]
    fn conditions_are_atomic_and_unknown_status_is_kept() {
        let status = &schema()["properties"]["status"];
        assert_eq!(status["x-kubernetes-preserve-unknown-fields"], true);
        let conditions = &status["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "atomic");
    }

    #[test]
    fn the_policy_warns_or_denies() {
        for (deny, failure, action) in [(false, "Ignore", "Warn"), (true, "Fail", "Deny")] {
            let documents = documents(&policy(deny));
            assert_eq!(documents[0]["spec"]["failurePolicy"], failure);
            let actions = &documents[1]["spec"]["validationActions"];
            assert_eq!(actions, &serde_json::json!([action, "Audit"]));
        }
    }
}
