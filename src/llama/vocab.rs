//! Tokens and text, by libllama's vocabulary.
//!
//! libllama does not know the architecture `diffusion-gemma`, but its tokenizer is Gemma 4's: such
//! a file is opened as `gemma4`, and only the vocabulary of a file is loaded.

use std::ffi::CStr;

use super::model::Model;
use super::overrides::for_libllama;
use super::vocab_check::check_tokenizer;
use crate::constraint::Vocabulary;
use crate::diffusion::Token;
use crate::error::{Error, Result};
use crate::gguf::{Gguf, MetadataOverride, MetadataValue, keys};
use crate::sys;

/// The vocabulary of a model: immutable, usable from any thread.
pub struct Vocab {
    model: Model,
    end_tokens: Vec<Token>,
}

impl std::fmt::Debug for Vocab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocab")
            .field("tokens", &self.len())
            .finish_non_exhaustive()
    }
}

/// End tokens of the checkpoint whose names libllama does not recognize.
const MORE_END_TOKENS: [&[u8]; 1] = [b"<|tool_response>"];

/// Name of the padding in vocabularies whose file does not say which token it is.
const PADDING: &str = "<pad>";

impl Vocab {
    /// Loads the vocabulary of a model file, with `overrides` in place of its metadata; they are
    /// already set in `gguf`.
    ///
    /// # Errors
    /// The file has no tokenizer, or a malformed one.
    pub fn load(gguf: &Gguf, overrides: &[MetadataOverride]) -> Result<Self> {
        // libllama aborts or reads out of bounds on some malformed lists, so they are checked
        // first.
        check_tokenizer(gguf)?;
        let architecture: Option<&str> = gguf.get(keys::GENERAL_ARCHITECTURE)?;
        let gemma = MetadataOverride {
            key: keys::GENERAL_ARCHITECTURE.into(),
            value: MetadataValue::Text("gemma4".into()),
        };
        let gemma = (architecture == Some(keys::DIFFUSION_GEMMA)).then_some(gemma);
        let overrides: Vec<MetadataOverride> =
            gemma.into_iter().chain(overrides.iter().cloned()).collect();
        let overrides = for_libllama(&overrides);
        // SAFETY: the override list ends with an empty key and outlives the call.
        let model = unsafe {
            Model::load(gguf.path(), |params| {
                params.vocab_only = true;
                params.kv_overrides = overrides.as_ptr();
            })
        }?;
        let model = model.ok_or_else(|| {
            Error::Tokenizer(format!(
                "{}: libllama refused the vocabulary; the debug messages of the log say why",
                gguf.path().display()
            ))
        })?;
        let mut this = Self {
            model,
            end_tokens: Vec::new(),
        };
        this.end_tokens = (0..this.len() as Token)
            // SAFETY: tokens below the count are valid.
            .filter(|t| unsafe { sys::llama_vocab_is_eog(this.raw(), *t) } || this.is_named_end(*t))
            .collect();
        Ok(this)
    }

    fn raw(&self) -> *const sys::llama_vocab {
        self.model.vocab()
    }

    fn is_named_end(&self, token: Token) -> bool {
        // SAFETY: a valid token; the text is terminated and lives as long as the vocabulary.
        let (text, control) = unsafe {
            (
                CStr::from_ptr(sys::llama_vocab_get_text(self.raw(), token)),
                sys::llama_vocab_is_control(self.raw(), token),
            )
        };
        control && MORE_END_TOKENS.contains(&text.to_bytes())
    }

    /// How many tokens there are.
    pub fn len(&self) -> usize {
        self.model.vocab_size()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Tokens that end an answer, according to the file and their names.
    pub fn end_tokens(&self) -> &[Token] {
        &self.end_tokens
    }

    fn check(&self, token: Token) -> Result<()> {
        if usize::try_from(token).is_ok_and(|t| t < self.len()) {
            return Ok(());
        }
        Err(Error::Tokenizer(format!(
            "token {token} is not in the vocabulary of {}",
            self.len()
        )))
    }

    /// Whether a token is a control token, which has no text of its own.
    ///
    /// # Errors
    /// The token is not in the vocabulary.
    pub fn is_control(&self, token: Token) -> Result<bool> {
        self.check(token)?;
        // SAFETY: a valid token.
        Ok(unsafe { sys::llama_vocab_is_control(self.raw(), token) })
    }

    /// Whether a token is part of texts: neither a control token nor one that is unknown or unused.
    ///
    /// # Errors
    /// The token is not in the vocabulary.
    pub fn is_text(&self, token: Token) -> Result<bool> {
        const TEXT: u32 = sys::LLAMA_TOKEN_ATTR_NORMAL
            | sys::LLAMA_TOKEN_ATTR_USER_DEFINED
            | sys::LLAMA_TOKEN_ATTR_BYTE;
        self.check(token)?;
        // SAFETY: a valid token.
        let attributes = unsafe { sys::llama_vocab_get_attr(self.raw(), token) };
        Ok(attributes & TEXT != 0 && !self.is_control(token)?)
    }

    /// The bytes of the tokens that texts may contain.
    ///
    /// # Errors
    /// None for a vocabulary of libllama.
    pub(crate) fn text_tokens(&self) -> Result<Vocabulary> {
        // A vocabulary's ids are tokens.
        let tokens = 0..self.len() as Token;
        let pieces = tokens.map(|token| match self.is_text(token)? {
            true => self.piece(token, false).map(Some),
            false => Ok(None),
        });
        let pieces: Vec<Option<Vec<u8>>> = pieces.collect::<Result<_>>()?;
        Ok(Vocabulary::new(pieces))
    }

    /// The tokens, with these texts, that [`tokenize`](Self::tokenize) finds by their text only if
    /// it parses special tokens.
    pub(crate) fn parsed_tokens(&self) -> impl Iterator<Item = (String, Token)> {
        const PARSED: u32 = sys::LLAMA_TOKEN_ATTR_CONTROL | sys::LLAMA_TOKEN_ATTR_UNKNOWN;
        let tokens = 0..self.len() as Token;
        tokens.filter_map(|token| {
            // SAFETY: a valid token; the text is terminated and lives as long as the vocabulary.
            let (attributes, text) = unsafe {
                (
                    sys::llama_vocab_get_attr(self.raw(), token),
                    CStr::from_ptr(sys::llama_vocab_get_text(self.raw(), token)),
                )
            };
            let text = text.to_str().ok().filter(|_| attributes & PARSED != 0)?;
            Some((text.to_owned(), token))
        })
    }

    /// The begin-of-sequence token, if there is one.
    pub fn bos(&self) -> Option<Token> {
        // SAFETY: a live vocabulary.
        let token = unsafe { sys::llama_vocab_bos(self.raw()) };
        (token >= 0).then_some(token)
    }

    /// Whether [`tokenize`](Self::tokenize) with special tokens begins a text with [`bos`](Self::bos).
    pub fn adds_bos(&self) -> bool {
        // SAFETY: a live vocabulary.
        unsafe { sys::llama_vocab_get_add_bos(self.raw()) }
    }

    /// The end-of-sequence token, if there is one.
    pub fn eos(&self) -> Option<Token> {
        // SAFETY: a live vocabulary.
        let token = unsafe { sys::llama_vocab_eos(self.raw()) };
        (token >= 0).then_some(token)
    }

    /// The token that fills a canvas after the end of an answer, if there is one: the file's
    /// padding, else the control token of that name.
    ///
    /// # Errors
    /// As [`tokenize`](Self::tokenize).
    pub fn pad(&self) -> Result<Option<Token>> {
        // SAFETY: a live vocabulary.
        let token = unsafe { sys::llama_vocab_pad(self.raw()) };
        if token >= 0 {
            return Ok(Some(token));
        }
        match self.tokenize(PADDING, false, true)?[..] {
            [token] if self.is_control(token)? => Ok(Some(token)),
            _ => Ok(None),
        }
    }

    /// Splits a text into tokens. `add_special` puts the begin-of-sequence token in front if the
    /// model needs one; `parse_special` turns control tokens that are written out, such as
    /// `<|turn>`, into those tokens instead of their letters.
    ///
    /// # Errors
    /// The text is longer than libllama supports.
    pub fn tokenize(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<Token>> {
        let too_long = || Error::Tokenizer(format!("a text of {} bytes is too long", text.len()));
        let bytes = i32::try_from(text.len()).map_err(|_| too_long())?;
        let mut tokens: Vec<Token> = vec![0; text.len() + 4];
        loop {
            let room = i32::try_from(tokens.len()).map_err(|_| too_long())?;
            // SAFETY: text and room are given with their lengths.
            let count = unsafe {
                sys::llama_tokenize(
                    self.raw(),
                    text.as_ptr().cast(),
                    bytes,
                    tokens.as_mut_ptr(),
                    room,
                    add_special,
                    parse_special,
                )
            };
            match usize::try_from(count) {
                Ok(count) => {
                    tokens.truncate(count);
                    return Ok(tokens);
                }
                Err(_) if count == i32::MIN => return Err(too_long()),
                // A negative count reports how much room is needed.
                Err(_) => tokens.resize(count.unsigned_abs() as usize, 0),
            }
        }
    }

    /// The bytes of a token's text; not always whole characters. Control tokens have none unless
    /// `special` asks for their names.
    ///
    /// # Errors
    /// The token is not in the vocabulary.
    pub fn piece(&self, token: Token, special: bool) -> Result<Vec<u8>> {
        self.check(token)?;
        let mut bytes = vec![0_u8; 32];
        loop {
            // SAFETY: a valid token and room of the given length.
            let count = unsafe {
                sys::llama_token_to_piece(
                    self.raw(),
                    token,
                    bytes.as_mut_ptr().cast(),
                    bytes.len() as i32,
                    0,
                    special,
                )
            };
            match usize::try_from(count) {
                Ok(count) => {
                    bytes.truncate(count);
                    return Ok(bytes);
                }
                Err(_) => bytes.resize(count.unsigned_abs() as usize, 0),
            }
        }
    }

    /// The text of tokens; invalid UTF-8 is replaced.
    ///
    /// # Errors
    /// A token is not in the vocabulary.
    pub fn detokenize(&self, tokens: &[Token], special: bool) -> Result<String> {
        let mut bytes = Vec::new();
        for token in tokens {
            bytes.extend(self.piece(*token, special)?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}
