//! The Jinja chat template of a model file.
//!
//! Templates are written for Hugging Face's `apply_chat_template`. This is that environment: its
//! whitespace rules, Python's string and dict methods, `tojson` as `json.dumps` writes it,
//! `raise_exception`, `strftime_now`, `break`, `continue` and `generation`.

use std::collections::HashSet;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, Value, context};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::functions::add_to as add_functions;
use super::message::Message;
use super::tags::without_generation;
use crate::error::{Error, Result};

/// The inputs of a template besides the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions {
    /// Text of the token that begins a sequence.
    pub bos_token: String,
    /// Text of the token that ends a sequence.
    pub eos_token: String,
    /// Whether the prompt ends with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// More variables, such as `enable_thinking` or `tools`. They do not replace
    /// [those that are always set](ChatTemplate::RESERVED).
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// A parsed chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The variables that the template reads. To find them is to parse it again.
    variables: Arc<HashSet<String>>,
}

const NAME: &str = "chat_template";

/// Maximum number of instructions in one rendering. A template comes with a model file and may be
/// malicious; ordinary ones need some thousands, and one for every 64 bytes that they write.
const FUEL: u64 = 10_000_000;

impl ChatTemplate {
    /// The variables that every rendering sets.
    pub const RESERVED: [&str; 4] = [
        "messages",
        "bos_token",
        "eos_token",
        "add_generation_prompt",
    ];

    /// Parses a template.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] with the line that is wrong.
    pub fn new(source: &str) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()
            .map_err(template_error)?;
        environment.set_syntax(syntax);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(unknown_method_callback);
        add_functions(&mut environment);
        environment
            .add_template_owned(NAME, without_generation(source).into_owned())
            .map_err(template_error)?;
        let template = environment.get_template(NAME).map_err(template_error)?;
        Ok(Self {
            variables: Arc::new(template.undeclared_variables(false)),
            environment,
        })
    }

    /// Whether the template reads a variable of that name.
    pub fn reads(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// The prompt for `messages`.
    ///
    /// It contains the special tokens as text, including the one that begins the sequence: tokenize
    /// it with special tokens parsed and none added. It also contains those that messages spell
    /// out: [`TextModel::chat_prompt`](crate::TextModel::chat_prompt) distinguishes the two.
    ///
    /// # Errors
    /// [`Error::ChatTemplate`] with the line, if the template rejects the messages (by
    /// `raise_exception`) or fails.
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<String> {
        let context = context! {
            messages => Value::from(Serde(messages)),
            bos_token => &options.bos_token,
            eos_token => &options.eos_token,
            add_generation_prompt => options.add_generation_prompt,
            ..Value::from(Serde(&options.extra))
        };
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render(context))
            .map_err(template_error)
    }
}

fn template_error(error: minijinja::Error) -> Error {
    let mut message = match error.line() {
        Some(line) => format!("line {line}: "),
        None => String::new(),
    };
    match (error.kind(), error.detail()) {
        // A message from raise_exception needs no further name.
        (ErrorKind::InvalidOperation, Some(detail)) => message += detail,
        (kind, Some(detail)) => message += &format!("{kind}: {detail}"),
        (kind, None) => message += &kind.to_string(),
    }
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        message += &format!(": {inner}");
        cause = inner.source();
    }
    Error::ChatTemplate(message)
}

#[cfg(test)]
mod tests {
    use super::super::Role;
    use super::*;
    use serde_json::json;

    fn render(source: &str, messages: &[Message], options: &RenderOptions) -> String {
        let template = ChatTemplate::new(source).unwrap();
        template.render(messages, options).unwrap()
    }

    fn render_one(source: &str) -> String {
        render(
            source,
            &[Message::new(Role::User, "Hi")],
            &options(json!({})),
        )
    }

    fn failure(source: &str) -> String {
        let messages = [Message::new(Role::User, "Hi")];
        let rendered = ChatTemplate::new(source)
            .and_then(|template| template.render(&messages, &options(json!({}))));
        rendered.unwrap_err().to_string()
    }

    fn options(extra: serde_json::Value) -> RenderOptions {
        RenderOptions {
            bos_token: "<s>".into(),
            eos_token: "</s>".into(),
            add_generation_prompt: true,
            extra: serde_json::from_value(extra).unwrap(),
        }
    }

    fn messages(json: serde_json::Value) -> Vec<Message> {
        serde_json::from_value(json).unwrap()
    }

    const TURNS: &str = "{{ bos_token }}{% for m in messages %}\
        <|turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n\
        {{ m['content'] | trim }}<turn|>\n{% endfor %}\
        {% if add_generation_prompt %}<|turn>model\n{% endif %}";

    #[test]
    fn turns() {
        let conversation = [
            Message::new(Role::System, "Be brief."),
            Message::new(Role::User, " <b>Hi</b> & \"you\" "),
            Message::new(Role::Assistant, "Hello"),
            Message::new(Role::User, "Bye"),
        ];
        let prompt = "<s><|turn>system\nBe brief.<turn|>\n\
            <|turn>user\n<b>Hi</b> & \"you\"<turn|>\n\
            <|turn>model\nHello<turn|>\n\
            <|turn>user\nBye<turn|>\n";
        let mut options = options(json!({}));
        let opened = render(TURNS, &conversation, &options);
        assert_eq!(opened, format!("{prompt}<|turn>model\n"));
        options.add_generation_prompt = false;
        assert_eq!(render(TURNS, &conversation, &options), prompt);
    }

    /// The features that the real template of Gemma 4 uses: macros that call themselves and later
    /// ones, keyword arguments, namespaces, slices, descending ranges, `dictsort`, `.get`,
    /// `.split`, captured blocks, filters after conditions. The expected prompts were made by
    /// Jinja2 3.1.
    const TOOLS: &str = r#"{%- macro declare(tool) -%}
    {{ tool['function']['name'] }}({{- fields(tool['function']['parameters']['properties'], required=tool['function']['parameters']['required']) -}})
{%- endmacro -%}
{%- macro fields(properties, required=[]) -%}
    {%- set state = namespace(first=true) -%}
    {%- for name, field in properties | dictsort -%}
        {%- if field['hidden'] %}{% continue %}{% endif -%}
        {%- if not state.first %}, {% endif -%}
        {%- set state.first = false -%}
        {{ name }}{{ '!' if name in required }}: {{ field['type'] | upper if field['type'] is string else field['type'] | map('upper') | list | join('|') }}
        {%- if field['enum'] %} of {{ literal(field['enum']) }}{% endif -%}
        {%- if field['properties'] is defined and field['properties'] is mapping %} { {{- fields(field['properties'], field['required'] | default([])) -}} }{% endif -%}
    {%- endfor -%}
{%- endmacro -%}
{%- macro literal(value, quote_keys=True) -%}
    {%- if value is none -%}
        nil
    {%- elif value is string -%}
        {{- '`' + value + '`' -}}
    {%- elif value is boolean -%}
        {{- 'yes' if value else 'no' -}}
    {%- elif value is mapping -%}
        {{- '{' -}}
        {%- for key, item in value | dictsort -%}
            {{- ('`' + key + '`') if quote_keys else key -}}:{{- literal(item, quote_keys=quote_keys) -}}
            {{- ',' if not loop.last -}}
        {%- endfor -%}
        {{- '}' -}}
    {%- elif value is sequence -%}
        [{%- for item in value -%}{{- literal(item, quote_keys=quote_keys) -}}{{- ',' if not loop.last -}}{%- endfor -%}]
    {%- else -%}
        {{- value -}}
    {%- endif -%}
{%- endmacro -%}
{%- macro without_thoughts(text) -%}
    {%- set kept = namespace(text='') -%}
    {%- for part in text.split('</think>') -%}
        {%- set kept.text = kept.text + part.split('<think>')[0] -%}
    {%- endfor -%}
    {{- kept.text | trim -}}
{%- endmacro -%}

{%- set seen = namespace(last_user=-1, previous=None) -%}
{%- set turns = messages -%}
{{- bos_token -}}
{#- Instructions and tools share the first turn. -#}
{%- if (enable_thinking is defined and enable_thinking) or tools or messages[0]['role'] in ['system', 'developer'] -%}
    {{- '[system]\n' -}}
    {%- if enable_thinking is defined and enable_thinking -%}{{- '(think)\n' -}}{%- endif -%}
    {%- if messages[0]['role'] in ['system', 'developer'] -%}
        {{- messages[0]['content'] | trim -}}
        {%- set turns = messages[1:] -%}
    {%- endif -%}
    {%- for tool in tools or [] %}
        {{- '\n* ' + declare(tool) | trim -}}
    {%- endfor %}
    {{- '[/]\n' -}}
{%- endif %}

{%- for i in range(turns | length) -%}
    {%- if turns[i]['role'] == 'user' -%}{%- set seen.last_user = i -%}{%- endif -%}
{%- endfor -%}

{%- for message in turns -%}
    {%- if message['role'] != 'tool' -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {%- set before = namespace(role=None) -%}
    {%- if loop.index0 > 0 -%}
        {%- for j in range(loop.index0 - 1, -1, -1) -%}
            {%- if turns[j]['role'] != 'tool' -%}
                {%- set before.role = turns[j]['role'] -%}
                {%- break -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {%- if not (role == 'model' and before.role == 'assistant') -%}
        {{- '[' + role + ']\n' }}
    {%- endif -%}
    {%- set thoughts = message.get('reasoning') or message.get('reasoning_content') -%}
    {%- if thoughts and loop.index0 > seen.last_user -%}
        {{- '<think>' + thoughts + '</think>' -}}
    {%- endif -%}

            {%- if message['tool_calls'] -%}
                {%- for call in message['tool_calls'] -%}
                    {{- '<call ' + call['function']['name'] + literal(call['function']['arguments'], quote_keys=False) + '>' -}}
                    {%- for k in range(loop.index0, turns | length) -%}
                        {%- set follow = turns[k] -%}
                        {%- if follow.get('tool_call_id') == call.get('id') -%}
                            {{- '<result ' + (follow.get('name') or 'unnamed') + ' ' + follow['content'] | tojson + '>' -}}
                        {%- endif -%}
                    {%- endfor -%}
                {%- endfor -%}
            {%- endif -%}

            {%- set text -%}
                {%- if message['content'] is string -%}
                    {{- without_thoughts(message['content']) if role == 'model' else message['content'] | trim -}}
                {%- endif -%}
            {%- endset -%}
            {{- text -}}
        {%- if text | trim | length > 0 or not message['tool_calls'] -%}
            {{- '[/]\n' -}}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}

{%- if add_generation_prompt -%}
    {{- '[model]\n' -}}
    {%- if not enable_thinking | default(false) -%}
        {{- '<think></think>' -}}
    {%- endif -%}
{%- endif -%}
"#;

    fn tool_conversation() -> Vec<Message> {
        messages(json!([
            {"role": "system", "content": "  Be brief. "},
            {"role": "user", "content": "Weather in <Oslo> & \"Rome\"?\n"},
            {
                "role": "assistant",
                "content": null,
                "reasoning_content": "Two cities.",
                "tool_calls": [
                    {
                        "id": "a",
                        "function": {
                            "name": "weather",
                            "arguments": {
                                "City": "Oslo",
                                "days": 2,
                                "f": 1.5,
                                "at": {"lat": 59.9, "ok": true, "x": null},
                                "tags": ["é", false]
                            }
                        }
                    },
                    {"id": "b", "function": {"name": "weather", "arguments": {}}}
                ]
            },
            {"role": "tool", "tool_call_id": "b", "content": "18 °C <sun> & 'wind'"},
            {"role": "tool", "tool_call_id": "a", "name": "met", "content": "-3\n\"snow\""},
            {"role": "assistant", "content": "<think>hm</think> Cold, then <think>x</think>warm. "},
            {"role": "user", "content": " Thanks "}
        ]))
    }

    #[test]
    fn tools_and_results() {
        let tools = json!([{
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {
                    "type": "object",
                    "properties": {
                        "when": {"type": ["string", "null"]},
                        "City": {"type": "string", "enum": ["Oslo", "Rome"]},
                        "secret": {"type": "string", "hidden": true},
                        "at": {
                            "type": "object",
                            "properties": {"lon": {"type": "number"}, "lat": {"type": "number"}},
                            "required": ["lat"]
                        }
                    },
                    "required": ["City"]
                }
            }
        }]);
        assert_eq!(
            render(
                TOOLS,
                &tool_conversation(),
                &options(json!({"tools": tools}))
            ),
            "<s>[system]\n\
             Be brief.\n\
             * weather(at: OBJECT {lat!: NUMBER, lon: NUMBER}, City!: STRING of [`Oslo`,`Rome`], when: STRING|NULL)[/]\n\
             [user]\n\
             Weather in <Oslo> & \"Rome\"?[/]\n\
             [model]\n\
             <call weather{at:{lat:59.9,ok:yes,x:nil},City:`Oslo`,days:2,f:1.5,tags:[`é`,no]}><result met \"-3\\n\\\"snow\\\"\"><call weather{}><result unnamed \"18 °C <sun> & 'wind'\">Cold, then warm.[/]\n\
             [user]\n\
             Thanks[/]\n\
             [model]\n\
             <think></think>"
        );
    }

    #[test]
    fn thinking_and_an_open_tool_turn() {
        let mut options = options(json!({"enable_thinking": true}));
        options.add_generation_prompt = false;
        assert_eq!(
            render(TOOLS, &tool_conversation()[..5], &options),
            "<s>[system]\n\
             (think)\n\
             Be brief.[/]\n\
             [user]\n\
             Weather in <Oslo> & \"Rome\"?[/]\n\
             [model]\n\
             <think>Two cities.</think><call weather{at:{lat:59.9,ok:yes,x:nil},City:`Oslo`,days:2,f:1.5,tags:[`é`,no]}><result met \"-3\\n\\\"snow\\\"\"><call weather{}><result unnamed \"18 °C <sun> & 'wind'\">"
        );
    }

    #[test]
    fn whitespace_as_hugging_face_has_it() {
        // Block tags on their own lines leave nothing, and the last newline is removed.
        let source = "a\n  {% if true %}\n  b\n  {% endif %}\nc\n";
        assert_eq!(render_one(source), "a\n  b\nc");
    }

    #[test]
    fn variables_of_the_caller_do_not_replace_the_messages() {
        let source = "{{ bos_token }}{{ messages[0].content }}{{ date }}";
        let options = options(json!({"messages": "no", "bos_token": "no", "date": "today"}));
        let prompt = render(source, &[Message::new(Role::User, "Hi")], &options);
        assert_eq!(prompt, "<s>Hitoday");
    }

    #[test]
    fn undefined_is_empty_and_false() {
        let source = "[{{ nothing }}{{ 'x' if nothing }}{{ nothing is defined }}]";
        assert_eq!(render_one(source), "[False]");
    }

    #[test]
    fn json_as_python_writes_it() {
        let json = |arguments: &str| {
            let data =
                json!({"b": [1, 2.5, "<é> '🦙'"], "a": {"x": null, "y": true}, "c": [], "d": {}});
            let source = format!("{{{{ data | tojson{arguments} }}}}");
            render(&source, &[], &options(json!({ "data": data })))
        };
        assert_eq!(
            json(""),
            r#"{"b": [1, 2.5, "<é> '🦙'"], "a": {"x": null, "y": true}, "c": [], "d": {}}"#
        );
        assert_eq!(
            json("(ensure_ascii=true, sort_keys=true, separators=(',', ':'))"),
            r#"{"a":{"x":null,"y":true},"b":[1,2.5,"<\u00e9> '\ud83e\udd99'"],"c":[],"d":{}}"#
        );
        let indented = "{\n  \"b\": [\n    1,\n    2.5,\n    \"<é> '🦙'\"\n  ],\n  \"a\": {\n    \
            \"x\": null,\n    \"y\": true\n  },\n  \"c\": [],\n  \"d\": {}\n}";
        assert_eq!(json("(indent=2)"), indented);
    }

    #[test]
    fn json_refuses_what_python_refuses() {
        assert!(failure("{{ nothing | tojson }}").contains("tojson: the value is undefined"));
        assert!(failure("{{ 1 | tojson(indent=1000000) }}").contains("indent must be at most 64"));
        assert!(failure("{{ 1 | tojson(separators=['a']) }}").contains("must be two strings"));
        assert!(failure("{{ 1 | tojson(colour=1) }}").contains("colour"));
    }

    #[test]
    fn errors_name_the_line() {
        assert_eq!(
            failure(
                "\n{% if messages[0].role == 'user' %}\n{{ raise_exception('No user here') }}{% endif %}"
            ),
            "chat template: line 3: No user here"
        );
        let unclosed = failure("a\n{% if x %}\nb");
        assert!(
            unclosed.starts_with("chat template: line 3: syntax error"),
            "{unclosed}"
        );
        let unknown = failure("a\n{{ 'x' | rot13 }}");
        assert!(
            unknown.starts_with("chat template: line 2: unknown filter"),
            "{unknown}"
        );
        let nested = failure("\n{% macro f(x) %}\n{{ x.y.z }}{% endmacro %}\n{{ f({}) }}");
        assert!(nested.contains("line 3"), "{nested}");
    }

    #[test]
    fn a_template_cannot_run_for_ever_or_fill_the_memory() {
        // Fuel limits both, and rejects a string of 1 GB before it exists.
        assert!(failure("{{ 'x' * 1000000000 }}").contains("fuel"));
        let loops = "{% for i in range(9999) %}x{% endfor %}";
        assert_eq!(render_one(loops).len(), 9999);
    }

    #[test]
    fn messages_from_json() {
        let parsed = messages(json!([
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "model", "content": "c", "name": "n"},
            {"role": "assistant"}
        ]));
        assert_eq!(parsed[0], Message::new(Role::User, "ab"));
        assert_eq!(parsed[1].role, Role::Assistant);
        assert_eq!(parsed[1].extra["name"], "n");
        assert_eq!(parsed[2].content, "");
    }

    #[test]
    fn messages_that_cannot_be_read_say_why() {
        let problem = |message: serde_json::Value| {
            serde_json::from_value::<Message>(message)
                .unwrap_err()
                .to_string()
        };
        let role = problem(json!({"role": "pirate", "content": "a"}));
        assert!(role.contains("unknown variant `pirate`"), "{role}");
        let image = problem(json!({"role": "user", "content": [{"type": "image", "url": "x"}]}));
        assert!(
            image.contains("unknown variant `image`, expected `text`"),
            "{image}"
        );
        let number = problem(json!({"role": "user", "content": 5}));
        assert!(
            number.contains("a string, a list of text parts, or null"),
            "{number}"
        );
        assert!(problem(json!({"content": "a"})).contains("missing field `role`"));
    }

    #[test]
    fn messages_survive_a_round_trip() {
        let all = tool_conversation();
        let json = serde_json::to_string(&all).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Message>>(&json).unwrap(), all);
    }

    #[test]
    fn the_year_of_now() {
        assert_eq!(render_one("{{ strftime_now('%Y') }}").len(), 4);
    }
}
