//! The items that a stored response answers, page by page.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::error::ApiError;
use super::turns::Turn;

/// Which items of a conversation a client wants to see.
#[derive(Clone, Debug)]
pub struct Page {
    /// The id of the item before the first one.
    pub after: Option<String>,
    /// Maximum number of items.
    pub limit: usize,
    /// Whether the oldest comes first.
    pub ascends: bool,
}

/// A page of the items that the last response of a conversation answers: earlier turns, then its
/// input.
///
/// # Errors
/// 400: there is no item after which to begin.
pub fn page(turns: &[Arc<Turn>], page: &Page) -> Result<Value, ApiError> {
    let mut items = listed(turns)?;
    if !page.ascends {
        items.reverse();
    }
    let begin = match &page.after {
        Some(id) => {
            let found = items.iter().position(|item| item["id"] == **id);
            let problem = format!("there is no item '{id}': give the last_id of a page");
            found.ok_or_else(|| ApiError::field("after", problem))? + 1
        }
        None => 0,
    };
    let rest = items.len() - begin;
    let data: Vec<Value> = items.drain(begin..).take(page.limit).collect();
    let mut list = json!({
        "object": "list",
        "first_id": data.first().map(|item| &item["id"]),
        "last_id": data.last().map(|item| &item["id"]),
        "has_more": rest > data.len(),
    });
    list["data"] = data.into();
    Ok(list)
}

/// All items, each with an id of its own.
fn listed(turns: &[Arc<Turn>]) -> Result<Vec<Value>, ApiError> {
    let mut items = Vec::new();
    let mut ids = HashSet::new();
    for (number, turn) in turns.iter().enumerate() {
        let number_of = turn.id.trim_start_matches("resp_");
        match turn.input()? {
            Value::String(text) => {
                let message = json!({"role": "user", "content": text});
                items.push(item(&message, number_of, 0, &mut ids));
            }
            Value::Array(list) => {
                for (index, given) in list.iter().enumerate() {
                    items.push(item(given, number_of, index, &mut ids));
                }
            }
            _ => {} // there was none
        }
        if number + 1 < turns.len() {
            let output = turn.output()?;
            ids.extend(
                output
                    .iter()
                    .filter_map(|item| Some(item["id"].as_str()?.to_owned())),
            );
            items.extend(output);
        }
    }
    Ok(items)
}

/// An item of an input with all that clients expect of one. `of` and `index` make its id, if it has
/// none or that of an earlier item. Nobody knows `of` while its input is written, so that no item
/// has this id.
fn item(given: &Value, of: &str, index: usize, ids: &mut HashSet<String>) -> Value {
    let kind = given["type"].as_str().unwrap_or("message");
    let mut id = |prefix: &str| match given["id"].as_str() {
        Some(id) if ids.insert(id.to_owned()) => id.to_owned(),
        _ => {
            let id = format!("{prefix}_{of}_in{index}");
            ids.insert(id.clone());
            id
        }
    };
    match kind {
        "function_call" => {
            let id = id("fc");
            let arguments = match &given["arguments"] {
                Value::String(text) => text.clone(),
                object => object.to_string(),
            };
            let call = given["call_id"].as_str().unwrap_or(&id);
            json!({
                "type": kind, "id": id, "call_id": call, "name": given["name"], "arguments": arguments,
                "status": "completed",
            })
        }
        "function_call_output" => {
            let output = match &given["output"] {
                Value::Array(list) => parts(list, false).into(),
                text => text.clone(),
            };
            json!({
                "type": kind, "id": id("fco"), "call_id": given["call_id"], "output": output,
                "status": "completed",
            })
        }
        "reasoning" => {
            let list = |name: &str| given[name].as_array().cloned().unwrap_or_default();
            json!({
                "type": kind, "id": id("rs"), "summary": list("summary"), "content": list("content"),
                "status": "completed",
            })
        }
        _ => {
            let content = match &given["content"] {
                Value::Array(list) => list.clone(),
                text => vec![json!({"type": "text", "text": text})],
            };
            let role = &given["role"];
            json!({
                "type": "message", "id": id("msg"), "role": role,
                "content": parts(&content, role == "assistant"), "status": "completed",
            })
        }
    }
}

/// Parts of a content, in the names that Responses have for them.
fn parts(content: &[Value], is_answer: bool) -> Vec<Value> {
    let part = |part: &Value| match (part["type"].as_str(), is_answer) {
        (Some("refusal"), _) => json!({"type": "refusal", "refusal": part["refusal"]}),
        (_, true) => json!({
            "type": "output_text", "text": part["text"], "annotations": [], "logprobs": [],
        }),
        (_, false) => json!({"type": "input_text", "text": part["text"]}),
    };
    content.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::super::turns::tests::{read, turn, turns};
    use super::*;

    /// The ids of a page of [`turns`].
    fn ids(after: Option<&str>, limit: usize, ascends: bool) -> (Vec<String>, bool) {
        ids_of(&turns(), after, limit, ascends)
    }

    fn ids_of(
        turns: &[Arc<Turn>],
        after: Option<&str>,
        limit: usize,
        ascends: bool,
    ) -> (Vec<String>, bool) {
        let page = Page {
            after: after.map(str::to_owned),
            limit,
            ascends,
        };
        let list = super::page(turns, &page).unwrap();
        let data = list["data"].as_array().unwrap();
        let ids: Vec<String> = data
            .iter()
            .map(|item| item["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(list["first_id"].as_str(), ids.first().map(String::as_str));
        assert_eq!(list["last_id"].as_str(), ids.last().map(String::as_str));
        (ids, list["has_more"] == true)
    }

    #[test]
    fn pages_of_items() {
        let all = ["msg_1_in0", "rs_1", "fc_1", "fco_2_in0", "msg_1"];
        let owned = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(ids(None, 20, true), (owned(&all), false));
        assert_eq!(ids(None, 2, true), (owned(&all[..2]), true));
        assert_eq!(ids(Some("rs_1"), 3, true), (owned(&all[2..]), false));
        assert_eq!(ids(None, 2, false), (owned(&["msg_1", "fco_2_in0"]), true));
        assert_eq!(ids(Some("rs_1"), 9, false), (owned(&all[..1]), false));
        assert_eq!(ids(Some("msg_1"), 9, true), (vec![], false));
        let missing = Page {
            after: Some("x".into()),
            limit: 1,
            ascends: true,
        };
        let error = super::page(&turns(), &missing).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("after"));
    }

    #[test]
    fn pages_end_although_ids_repeat() {
        let output = json!([{"type": "message", "id": "msg_1_0", "role": "assistant",
            "status": "completed", "content": []}]);
        let message = |id: &str| json!({"role": "user", "content": "a", "id": id});
        let first = json!([message("a"), message("a"), message("b")]);
        // A client may send what it was shown, and use an id of another turn.
        let second = json!([
            message("msg_1_0"),
            message("msg_1_in1"),
            message("b"),
            message("c")
        ]);
        let turns = [
            turn("resp_1", &first, &output),
            turn("resp_2", &second, &json!([])),
        ];
        let expected = [
            "a",
            "msg_1_in1",
            "b",
            "msg_1_0",
            "msg_2_in0",
            "msg_2_in1",
            "msg_2_in2",
            "c",
        ];
        for ascends in [true, false] {
            let mut found: Vec<String> = Vec::new();
            loop {
                let after = found.last().map(String::as_str);
                let (ids, has_more) = ids_of(&turns, after, 3, ascends);
                found.extend(ids);
                assert!(found.len() <= expected.len(), "{found:?}");
                if !has_more {
                    break;
                }
            }
            if !ascends {
                found.reverse();
            }
            assert_eq!(found, expected);
        }
    }

    /// Whatever an input may have, its items are listed as `/openapi.json` and other clients expect
    /// them.
    #[test]
    fn items_have_all_that_clients_expect() {
        use super::super::openapi::tests::{document, validator};
        let input = json!([
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}, {"type": "refusal", "refusal": "no"}]},
            {"type": "message", "id": "mine", "role": "developer", "content": []},
            {"type": null, "id": 5, "role": "system", "content": [{"type": "output_text", "text": "c"}]},
            {"type": "function_call", "name": "f", "arguments": {"a": 1}},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "d"}]},
            {"type": "reasoning", "summary": "nonsense"},
        ]);
        assert!(read(&json!({"input": input})).is_ok());
        let turns = [turn("resp_7", &input, &json!([]))];
        let all = Page {
            after: None,
            limit: 100,
            ascends: true,
        };
        let list = super::page(&turns, &all).unwrap();
        let document = document();
        let schema = validator(&document, &json!({"$ref": "#/components/schemas/ItemList"}));
        assert!(schema.is_valid(&list), "{list:#}");
        let data = list["data"].as_array().unwrap();
        assert_eq!((data.len(), &data[2]["id"]), (7, &json!("mine")));
        assert_eq!(
            data[0]["content"],
            json!([{"type": "input_text", "text": "a"}])
        );
        assert_eq!(data[1]["content"][0]["type"], "output_text");
        assert_eq!(data[4]["arguments"], "{\"a\":1}");
        assert_eq!(data[4]["call_id"], data[4]["id"]);
    }
}
