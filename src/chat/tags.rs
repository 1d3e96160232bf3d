//! Tags of Hugging Face's templates that Jinja itself does not have.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Comments, raw blocks, expressions and tags, so that no tag is found inside them. The groups are
/// what is before and after the name of a `generation` tag, and its `end`.
static TAGS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let text = r#""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'"#;
    let pattern = [
        r"\{#.*?#\}".to_owned(),
        r"\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}".to_owned(),
        r"(?<before>\{%[-+]?\s*)(?<end>end)?generation(?<after>\s*[-+]?%\})".to_owned(),
        format!(r"\{{\{{(?:{text}|.)*?\}}\}}"),
        format!(r"\{{%(?:{text}|.)*?%\}}"),
    ];
    Regex::new(&format!("(?s){}", pattern.join("|"))).ok()
});

/// A template without the tags `generation` and `endgeneration`, which mark what a model wrote for
/// its training. Their contents stay, and so does their whitespace control.
pub(super) fn without_generation(source: &str) -> Cow<'_, str> {
    let Some(tags) = TAGS.as_ref() else {
        return source.into();
    };
    tags.replace_all(source, |found: &Captures<'_>| {
        let (Some(before), Some(after)) = (found.name("before"), found.name("after")) else {
            return found[0].to_owned();
        };
        let tag = match found.name("end") {
            Some(_) => "endif",
            None => "if true",
        };
        format!("{}{tag}{}", before.as_str(), after.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::super::{ChatTemplate, Message, RenderOptions, Role};

    fn render(source: &str) -> String {
        let template = ChatTemplate::new(source).unwrap();
        let messages = [Message::new(Role::Assistant, "Hi")];
        template
            .render(&messages, &RenderOptions::default())
            .unwrap()
    }

    #[test]
    fn generation_is_ignored_with_the_spaces_that_it_takes() {
        let plain = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
        for (open, close) in [
            ("{% generation %}", "{% endgeneration %}"),
            ("{%generation%}", "{%endgeneration%}"),
            ("{% generation %}\n", "{% endgeneration %}\n"),
            (" \n{%- generation -%}\n ", "\n {%- endgeneration -%} \n"),
            ("{%+ generation %}", "{%- endgeneration %}"),
        ] {
            let marked = plain.replace(
                "{{ m.content }}",
                &format!("{open}{{{{ m.content }}}}{close}"),
            );
            assert_eq!(render(&marked), "[Hi]", "{marked}");
        }
        // As with other tags: a tag on a line of its own leaves nothing, and other spaces stay.
        assert_eq!(
            render("a\n  {% generation %}\nb {% endgeneration %} c"),
            "a\nb  c"
        );
    }

    #[test]
    fn what_only_looks_like_the_tag_stays() {
        for kept in [
            "{{ '{% generation %}' }}",
            "{% raw %}{% generation %}{% endraw %}",
            "{% set x = '{% generation %}' %}{{ x }}",
        ] {
            assert_eq!(render(kept), "{% generation %}", "{kept}");
        }
        assert_eq!(
            render("{# {% generation %} #}{{ \"}}\" }}it's {{ 'a' }}"),
            "}}it's a"
        );
        assert_eq!(render("{% set generation = 5 %}{{ generation }}"), "5");
    }

    #[test]
    fn errors_keep_their_line() {
        let source = "{% generation %}\n{% endgeneration %}\n{{ raise_exception('no') }}";
        let template = ChatTemplate::new(source).unwrap();
        let error = template.render(&[], &RenderOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "chat template: line 3: no");
    }
}
