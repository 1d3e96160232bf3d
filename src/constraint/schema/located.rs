//! A schema inside the document, and how one gets there: by its place or by `$ref`.

use std::rc::Rc;

use serde_json::Value;

use super::refusal::At;
use crate::constraint::error::ConstraintError;
use crate::json::pointer_to;

/// A schema with its place.
#[derive(Clone)]
pub(super) struct Located<'a> {
    pub(super) schema: &'a Value,
    /// JSON pointer of the schema.
    pub(super) pointer: Rc<str>,
    pub(super) scope: Rc<Scope>,
    /// The document, or the schema with an `$id` of its own, around this one.
    around: Resource<'a>,
}

/// What references begin at: the document, or a schema in it with an `$id` of its own.
#[derive(Clone)]
struct Resource<'a> {
    schema: &'a Value,
    pointer: Rc<str>,
}

/// The definitions inside which a schema stands.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    /// Pointers of the definitions, the outermost first.
    open: Vec<Rc<str>>,
    /// How many of them were opened for the same value as the schema.
    here: usize,
    /// How often a definition was opened inside itself.
    pub(super) reentries: usize,
}

/// Where a `$ref` leads.
pub(super) enum Target<'a> {
    Schema(Located<'a>),
    /// To a schema that is being applied to the same value already.
    Endless,
}

impl<'a> Located<'a> {
    pub(super) fn root(schema: &'a Value) -> Self {
        let scope = Scope {
            open: vec!["".into()],
            here: 1,
            reentries: 0,
        };
        let pointer: Rc<str> = "".into();
        Self {
            schema,
            pointer: pointer.clone(),
            scope: Rc::new(scope),
            around: Resource { schema, pointer },
        }
    }

    pub(super) fn at<'b>(&'b self, keyword: &'b str) -> At<'b> {
        At {
            pointer: &self.pointer,
            keyword,
        }
    }

    /// A schema inside this one that applies to the same value.
    pub(super) fn branch(&self, keyword: &str, index: usize, schema: &'a Value) -> Self {
        Self {
            schema,
            pointer: pointer_to(&pointer_to(&self.pointer, keyword), &index.to_string()).into(),
            scope: self.scope.clone(),
            around: self.resource(),
        }
    }

    /// A schema inside this one that applies to a member or an item of the value.
    pub(super) fn child(&self, tokens: &[&str], schema: &'a Value) -> Self {
        let pointer = tokens
            .iter()
            .fold(self.pointer.to_string(), |pointer, token| {
                pointer_to(&pointer, token)
            });
        let mut scope = self.scope.clone();
        if scope.here > 0 {
            Rc::make_mut(&mut scope).here = 0;
        }
        Self {
            schema,
            pointer: pointer.into(),
            scope,
            around: self.resource(),
        }
    }

    /// What the references of this schema begin at.
    fn resource(&self) -> Resource<'a> {
        match has_id(self.schema) {
            true => Resource {
                schema: self.schema,
                pointer: self.pointer.clone(),
            },
            false => self.around.clone(),
        }
    }

    /// What the `$ref` of this schema means.
    pub(super) fn follow(&self, reference: &Value) -> Result<Target<'a>, ConstraintError> {
        let at = self.at("$ref");
        let reference = reference.as_str().ok_or_else(|| at.malformed("a string"))?;
        let around = self.resource();
        let (schema, pointer) = around.look_up(reference, at)?;
        let scope = &self.scope;
        if scope.open[scope.open.len() - scope.here..].contains(&pointer) {
            return Ok(Target::Endless);
        }
        let mut scope = Scope::clone(scope);
        scope.reentries += usize::from(scope.open.contains(&pointer));
        scope.open.push(pointer.clone());
        scope.here += 1;
        Ok(Target::Schema(Self {
            schema,
            pointer,
            scope: Rc::new(scope),
            around,
        }))
    }
}

impl<'a> Resource<'a> {
    /// The schema that a reference in it names, and the pointer of that.
    fn look_up(
        &self,
        reference: &str,
        at: At<'_>,
    ) -> Result<(&'a Value, Rc<str>), ConstraintError> {
        let id = self.schema.get("$id").and_then(Value::as_str);
        let id = id.unwrap_or_default();
        let id = id.strip_suffix('#').unwrap_or(id);
        let local = reference
            .strip_prefix(id)
            .filter(|rest| rest.starts_with('#'));
        let Some(fragment) = local.or_else(|| reference.strip_prefix('#').map(|_| reference))
        else {
            return Err(at.refuse(format!(
                "'{reference}' is not in this document: copy it to $defs"
            )));
        };
        let fragment = decoded(&fragment[1..])
            .ok_or_else(|| at.malformed("a reference in valid percent-encoding"))?;
        if !fragment.is_empty() && !fragment.starts_with('/') {
            return Err(at.refuse(format!(
                "'{reference}' names an anchor: write a JSON pointer, such as #/$defs/name"
            )));
        }
        let mut schema = self.schema;
        let mut pointer = self.pointer.to_string();
        for token in fragment.split('/').skip(1) {
            let token = token.replace("~1", "/").replace("~0", "~");
            let next = match schema {
                Value::Object(members) => members.get(&token),
                Value::Array(items) => token.parse().ok().and_then(|index: usize| items.get(index)),
                _ => None,
            };
            schema = next.ok_or_else(|| at.refuse(format!("'{reference}' leads nowhere")))?;
            pointer = pointer_to(&pointer, &token);
            if has_id(schema) {
                return Err(at.refuse(format!(
                    "'{reference}' leads into a schema with an $id of its own: remove that $id"
                )));
            }
        }
        Ok((schema, pointer.into()))
    }
}

impl Scope {
    /// What the meaning of a schema inside it depends on.
    pub(super) fn key(&self) -> (Vec<Rc<str>>, usize) {
        let mut open = self.open.clone();
        open.sort_unstable();
        open.dedup();
        (open, self.reentries)
    }
}

/// Whether references in a schema begin at it. An `$id` that is a fragment is an anchor of draft 7.
fn has_id(schema: &Value) -> bool {
    let id = schema.get("$id").and_then(Value::as_str);
    id.is_some_and(|id| !id.starts_with('#'))
}

fn decoded(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}
