//! Tools that the model may call, and whether it must.

use serde_json::{Map, Value, json};

use super::assemble::Calls;
use super::error::ApiError;
use super::language::any_of;
use super::request::{Capabilities, Constraint, Language};
use super::value::{Field, Object};

/// A function that the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// Schema of its arguments.
    pub parameters: Value,
}

impl Function {
    /// A function with a name that is not empty, and parameters as a schema.
    ///
    /// # Errors
    /// 400 with the field that is wrong.
    pub fn read(object: &Object<'_>, parameters: &str) -> Result<Self, ApiError> {
        let name = object.require("name")?;
        if name.string()?.is_empty() {
            return Err(name.error("is empty"));
        }
        let parameters = match object.object(parameters)? {
            Some(schema) => {
                check_object(&schema)?;
                Value::Object(schema.members().clone())
            }
            None => json!({"type": "object", "properties": {}}),
        };
        Ok(Self {
            name: name.string()?.to_owned(),
            description: object.string("description")?.map(str::to_owned),
            parameters,
        })
    }

    /// As templates read it.
    fn declared(&self) -> Value {
        let mut function = Map::new();
        function.insert("name".into(), self.name.clone().into());
        if let Some(description) = &self.description {
            function.insert("description".into(), description.clone().into());
        }
        function.insert("parameters".into(), self.parameters.clone());
        json!({"type": "function", "function": function})
    }

    /// The schema of its arguments for a call that is forced: they are an object whatever the schema says, and
    /// its references begin at it, wherever it stands.
    fn arguments(&self) -> Value {
        let mut schema = self.parameters.clone();
        if let Value::Object(members) = &mut schema {
            members.insert("type".into(), "object".into());
            let id = members.entry("$id").or_insert(Value::Null);
            if id.is_null() {
                *id = format!("function:{}", self.name).into();
            }
        }
        schema
    }
}

/// Refuses a schema that allows no object.
fn check_object(schema: &Object<'_>) -> Result<(), ApiError> {
    let Some(kind) = schema.get("type") else {
        return Ok(());
    };
    let is_object = |kind: &Value| kind == "object";
    let allows = match kind.value {
        Value::Array(kinds) => kinds.iter().any(is_object),
        kind => is_object(kind),
    };
    match allows {
        true => Ok(()),
        false => Err(kind.error("arguments are an object: say \"object\"")),
    }
}

/// Whether the model calls tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It does not.
    None,
    /// It decides.
    Auto,
    /// It calls one.
    Required,
    /// It calls this one.
    Named(String),
}

/// What tools change in a request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tools {
    /// For the template; none if the model calls no tools.
    pub declared: Vec<Value>,
    /// Where calls come from.
    pub calls: Calls,
    /// What forces a call.
    pub constraint: Option<Constraint>,
}

/// Reads `tools`, `tool_choice` and `parallel_tool_calls` of a chat request.
///
/// # Errors
/// 400 with the field that is wrong.
pub fn read(body: &Object<'_>, capabilities: &Capabilities) -> Result<Tools, ApiError> {
    let functions = body
        .list("tools")?
        .iter()
        .map(chat_function)
        .collect::<Result<Vec<_>, _>>()?;
    let choice = body
        .get("tool_choice")
        .map(|field| chat_choice(&field))
        .transpose()?;
    let parallel = body.boolean("parallel_tool_calls")?.unwrap_or(true);
    resolve(
        &functions,
        (choice.unwrap_or(Choice::Auto), REQUIRED),
        parallel,
        capabilities,
    )
}

fn chat_function(tool: &Field<'_>) -> Result<Function, ApiError> {
    let tool = tool.object()?;
    let kind = tool.require("type")?;
    match kind.string()? {
        "function" => Function::read(&tool.require("function")?.object()?, "parameters"),
        other => Err(kind.error(format!(
            "is \"{other}\", but only \"function\" is supported"
        ))),
    }
}

/// `"none"`, `"auto"`, `"required"`, or an object that names a function.
///
/// # Errors
/// 400: it is something else.
pub fn chat_choice(field: &Field<'_>) -> Result<Choice, ApiError> {
    if let Value::String(_) = field.value {
        return match field.choice(&[("none", 0), ("auto", 1), ("required", 2), ("any", 2)])? {
            0 => Ok(Choice::None),
            1 => Ok(Choice::Auto),
            _ => Ok(Choice::Required),
        };
    }
    if !field.value.is_object() {
        return Err(
            field.wrong("\"none\", \"auto\", \"required\", or an object that names a function")
        );
    }
    let object = field.object()?;
    object.require("type")?.choice(&[("function", ())])?;
    // Responses has the name beside the type.
    let name = match object.get("name") {
        Some(name) => name,
        None => object.require("function")?.object()?.require("name")?,
    };
    Ok(Choice::Named(name.string()?.to_owned()))
}

/// The choice of a call, as OpenAI's endpoints write it.
pub const REQUIRED: &str = "\"required\"";

/// What these tools change. `required` is how the protocol writes that a tool is called.
///
/// # Errors
/// 400: the choice names none of them, or the model knows no tools.
pub fn resolve(
    functions: &[Function],
    (choice, required): (Choice, &str),
    parallel: bool,
    capabilities: &Capabilities,
) -> Result<Tools, ApiError> {
    let refuse = |problem: &str| Err(ApiError::field("tool_choice", problem));
    let forced = |calls, schema| Tools {
        declared: functions.iter().map(Function::declared).collect(),
        calls,
        constraint: Some(Constraint {
            field: "tools".into(),
            language: Language::JsonSchema(schema),
        }),
    };
    match choice {
        Choice::None => Ok(Tools::default()),
        Choice::Auto if functions.is_empty() => Ok(Tools::default()),
        Choice::Auto if !capabilities.tools => Err(ApiError::field(
            "tools",
            format!(
                "the chat template of this model describes no tools: remove them, or set tool_choice to \
                 {required}, which needs no template"
            ),
        )),
        Choice::Auto => Ok(Tools {
            declared: functions.iter().map(Function::declared).collect(),
            calls: Calls::Marked { parallel },
            constraint: None,
        }),
        Choice::Required if functions.is_empty() => {
            refuse(&format!("is {required}, but there are no tools"))
        }
        Choice::Required => {
            let schemas = functions.iter().map(call_schema).collect();
            Ok(forced(Calls::Object, any_of(schemas)))
        }
        Choice::Named(name) => match functions.iter().find(|function| function.name == name) {
            Some(function) => Ok(forced(Calls::Arguments(name), function.arguments())),
            None => refuse(&format!("names \"{name}\", which is not one of the tools")),
        },
    }
}

/// A call of a function as one object.
fn call_schema(function: &Function) -> Value {
    json!({
        "type": "object",
        "properties": {"name": {"const": function.name}, "arguments": function.arguments()},
        "required": ["name", "arguments"],
        "additionalProperties": false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::request::Family;
    use super::*;

    fn tools(mut body: Value, template: bool) -> Result<Tools, ApiError> {
        let function = |name| {
            let parameters = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
            json!({"type": "function", "function": {"name": name, "parameters": parameters}})
        };
        if body.get("tools").is_none() {
            body["tools"] = json!([function("f"), function("g")]);
        }
        let capabilities = Capabilities {
            family: Family::Canvas,
            slots: 1,
            vocabulary: 100,
            tools: template,
            scores: true,
            responses: None,
        };
        let Value::Object(map) = &body else { panic!() };
        read(&Object::root(map), &capabilities)
    }

    #[test]
    fn the_model_decides_by_default() {
        let auto = tools(json!({}), true).unwrap();
        assert_eq!(auto.calls, Calls::Marked { parallel: true });
        assert_eq!(auto.declared[1]["function"]["name"], "g");
        let one = tools(json!({"parallel_tool_calls": false}), true).unwrap();
        assert_eq!(one.calls, Calls::Marked { parallel: false });
        assert_eq!(
            tools(json!({"tool_choice": "none"}), true),
            Ok(Tools::default())
        );
        assert_eq!(
            tools(json!({"tools": [], "tool_choice": "auto"}), false),
            Ok(Tools::default())
        );
    }

    #[test]
    fn a_forced_call_is_a_constraint_that_can_be_kept() {
        for choice in [
            json!("required"),
            json!({"type": "function", "function": {"name": "g"}}),
        ] {
            let forced = tools(json!({"tool_choice": choice}), false).unwrap();
            forced.constraint.unwrap().automaton().unwrap();
        }
        let named = tools(
            json!({"tool_choice": {"type": "function", "name": "g"}}),
            false,
        )
        .unwrap();
        assert_eq!(named.calls, Calls::Arguments("g".into()));
    }

    /// Clients generate them from nested types, with the same names for each function.
    #[test]
    fn definitions_are_those_of_each_function() {
        let function = |name, value: u32| {
            let parameters = json!({"properties": {"a": {"$ref": "#/$defs/A"}}, "required": ["a"],
                "additionalProperties": false, "$defs": {"A": {"const": value}}});
            json!({"type": "function", "function": {"name": name, "parameters": parameters}})
        };
        let functions = json!([function("f", 1), function("g", 2)]);
        let body = json!({"tools": functions, "tool_choice": "required"});
        let language = tools(body, false).unwrap().constraint.unwrap();
        let language = language.automaton().unwrap();
        for (call, is_right) in [
            (r#"{"name": "f", "arguments": {"a": 1}}"#, true),
            (r#"{"name": "g", "arguments": {"a": 2}}"#, true),
            (r#"{"name": "g", "arguments": {"a": 1}}"#, false),
        ] {
            assert_eq!(language.matches(call.as_bytes()), is_right, "{call}");
        }
    }

    #[test]
    fn arguments_are_an_object() {
        let function = |parameters| json!([{"type": "function", "function": {"name": "f", "parameters": parameters}}]);
        for (parameters, arguments) in [
            (json!({}), r#"{"a": [1]}"#),
            (json!({"description": "none"}), r#"{"a": [1]}"#),
            (json!({"type": ["object", "null"]}), r#"{"a": [1]}"#),
            (json!(null), "{}"),
        ] {
            let choice = json!({"type": "function", "name": "f"});
            let body = json!({"tools": function(parameters), "tool_choice": choice});
            let language = tools(body.clone(), false).unwrap().constraint.unwrap();
            let language = language.automaton().unwrap();
            assert!(language.matches(arguments.as_bytes()), "{body}");
            assert!(!language.matches(b"42") && !language.matches(b"null"));
        }
        for kind in [json!("string"), json!(["array", "null"]), json!(1)] {
            let body = json!({"tools": function(json!({"type": kind}))});
            let error = tools(body, true).unwrap_err();
            let param = error.param.as_deref();
            assert_eq!(param, Some("tools[0].function.parameters.type"));
        }
    }

    #[test]
    fn wrong_tools_name_their_field() {
        for (body, param) in [
            (json!({"tools": 5}), "tools"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (
                json!({"tools": [{"type": "function"}]}),
                "tools[0].function",
            ),
            (
                json!({"tools": [{"type": "function", "function": {"name": ""}}]}),
                "tools[0].function.name",
            ),
            (
                json!({"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]}),
                "tools[0].function.parameters",
            ),
            (json!({"tool_choice": "sometimes"}), "tool_choice"),
            (
                json!({"tool_choice": {"type": "allowed_tools"}}),
                "tool_choice.type",
            ),
            (
                json!({"tool_choice": {"type": "function", "name": "h"}}),
                "tool_choice",
            ),
            (
                json!({"tools": [], "tool_choice": "required"}),
                "tool_choice",
            ),
            (json!({"parallel_tool_calls": "yes"}), "parallel_tool_calls"),
        ] {
            assert_eq!(
                tools(body.clone(), true).unwrap_err().param.as_deref(),
                Some(param),
                "{body}"
            );
        }
        assert_eq!(
            tools(json!({}), false).unwrap_err().param.as_deref(),
            Some("tools")
        );
    }
}
