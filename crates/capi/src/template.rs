//! What is known about a canvas before its first step.

use std::mem::offset_of;
use std::ptr::null;

use super::border::{Failure, Result, Versioned, read, reference, slice};
use llama_diffusion::Token;
use llama_diffusion::diffusion::{Template, TokenSet};

/// A set of tokens.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_token_set {
    /// The tokens, in any order, at least one.
    pub tokens: *const i32,
    /// Number of tokens.
    pub count: usize,
}

/// What is known about a canvas before its first step. All of its memory belongs to the caller. Set
/// unused fields to 0.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct diffusion_template {
    /// Set it to `sizeof(diffusion_template)`.
    pub struct_size: usize,
    /// Number of positions that the arrays below describe, from the first one on; those after them are
    /// free.
    pub length: usize,
    /// For each position the token that it holds: it is never renoised and takes no part in acceptance.
    /// Below 0 is a position that is not fixed. NULL fixes none.
    pub fixed: *const i32,
    /// For each position the index of the set in `sets` that its tokens come from; below 0 is any token.
    /// NULL is any token everywhere. A fixed position has no set.
    pub set_of: *const i32,
    /// For each position the token that it begins with instead of noise; below 0 is noise. NULL is noise
    /// everywhere. Not for masked models, which begin with masks.
    pub initial: *const i32,
    /// The sets that `set_of` names.
    pub sets: *const diffusion_token_set,
    /// Number of sets.
    pub set_count: usize,
    /// The step at which the canvas begins: the closer `initial` is to a finished text, the later. At
    /// `max_steps` it takes none.
    pub first_step: u32,
    /// Reserved; 0.
    pub reserved: u32,
}

// SAFETY: numbers and pointers in C's layout, the size first.
unsafe impl Versioned for diffusion_template {
    const NAME: &'static str = "diffusion_template";
    const FIRST_SIZE: usize = offset_of!(Self, reserved) + size_of::<u32>();
}

impl Default for diffusion_template {
    fn default() -> Self {
        Self {
            struct_size: size_of::<Self>(),
            length: 0,
            fixed: null(),
            set_of: null(),
            initial: null(),
            sets: null(),
            set_count: 0,
            first_step: 0,
            reserved: 0,
        }
    }
}

impl diffusion_template {
    /// # Safety
    /// The pointers are as documented.
    unsafe fn resolve(&self) -> Result<Template> {
        // SAFETY: as the caller promises.
        let (fixed, set_of, initial, sets) = unsafe {
            (
                self.positions(self.fixed, "fixed")?,
                self.positions(self.set_of, "set_of")?,
                self.positions(self.initial, "initial")?,
                slice(self.sets, self.set_count, "sets")?,
            )
        };
        let sets: Result<Vec<TokenSet>> = sets
            .iter()
            .map(|set| {
                // SAFETY: as the caller promises.
                let tokens: &[Token] = unsafe { slice(set.tokens, set.count, "sets") }?;
                match tokens.iter().find(|token| **token < 0) {
                    Some(token) => Err(Failure::argument(
                        "sets",
                        format_args!("{token} is not a token"),
                    )),
                    None => Ok(tokens.iter().copied().collect()),
                }
            })
            .collect();
        let sets = sets?;
        let at = |numbers: Option<&[i32]>, position: usize| {
            numbers.and_then(|numbers| usize::try_from(numbers[position]).ok())
        };
        let mut template = Template::new();
        for position in 0..self.length {
            match (at(fixed, position), at(set_of, position)) {
                // A token that fits `usize` fitted `i32` before.
                (Some(token), None) => template.fixed(&[token as Token]),
                (None, Some(set)) => {
                    let set = sets.get(set).ok_or_else(|| {
                        let problem = format!("position {position}: there are {} sets", sets.len());
                        Failure::argument("set_of", problem)
                    })?;
                    template.within(set.clone())
                }
                (None, None) => template.free(),
                (Some(_), Some(_)) => {
                    let problem = format!("position {position} is fixed, and cannot have a set");
                    return Err(Failure::argument("set_of", problem));
                }
            };
        }
        if let Some(initial) = initial {
            let known = initial.iter().map(|token| (*token >= 0).then_some(*token));
            template.begin_with(known.collect());
        }
        template.begin_at(self.first_step);
        Ok(template)
    }

    /// An array with an entry for each position, if there is one.
    ///
    /// # Safety
    /// `numbers` is NULL or points to `length` numbers.
    unsafe fn positions(&self, numbers: *const i32, name: &str) -> Result<Option<&[i32]>> {
        if numbers.is_null() {
            return Ok(None);
        }
        // SAFETY: as the caller promises.
        unsafe { slice(numbers, self.length, name) }.map(Some)
    }
}

/// The templates behind an array of pointers.
///
/// # Safety
/// `templates` is NULL or points to `count` pointers to templates as documented.
pub(super) unsafe fn templates(
    templates: *const *const diffusion_template,
    count: usize,
) -> Result<Vec<Template>> {
    // SAFETY: as the caller promises.
    unsafe {
        slice(templates, count, "templates")?
            .iter()
            .map(|template| {
                reference(*template, "templates")?;
                read(*template, diffusion_template::default())?.resolve()
            })
            .collect()
    }
}
