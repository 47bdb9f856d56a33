//! Whether what a command prints is written down.

use serde_json::Value;
use std::path::Path;

/// Every field of `document` is in docs/json.md.
pub fn documented(document: &Value) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/json.md");
    let page = std::fs::read_to_string(page).unwrap();
    look(document, &page);
}

fn look(value: &Value, page: &str) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                assert!(page.contains(&format!("`{name}`")), "docs/json.md says nothing of {name}");
                // Its fields are the names of calls.
                if name != "calls_by_kind" {
                    look(value, page);
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| look(value, page)),
        _ => {}
    }
}
