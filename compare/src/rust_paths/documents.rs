//! A JSON document parsed into a tree of values, and the tree dropped.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::OnceLock;

use serde_json::Value;

use super::Bench;
use crate::harness::Random;

pub(super) const BENCHES: &[Bench] = &[Bench { name: "json-parse-drop", ops: RECORDS as u64, run: parse }];

const RECORDS: usize = 500;

fn document() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        let mut random = Random::new(21);
        let mut text = String::from("[");
        for id in 0..RECORDS {
            let comma = if id == 0 { "" } else { "," };
            let (price, stock) = (random.below(100_000), random.below(50));
            write!(
                text,
                r#"{comma}{{"id":{id},"name":"item number {id}","price":{price}.5,"tags":["small","tag {stock}",null],
                   "size":{{"width":{stock},"height":{price}}},"text":"{:width$}"}}"#,
                "a text of some length",
                width = random.uniform(10, 200),
            )
            .expect("a string takes it");
        }
        text.push(']');
        text
    })
}

fn parse() {
    let value: Value = serde_json::from_str(document()).expect("the document is well formed");
    let records = black_box(&value).as_array().expect("a list");
    assert_eq!(records.len(), RECORDS);
    assert_eq!(records[RECORDS - 1]["id"], RECORDS - 1);
}
