//! The line about what an answer corrected of itself.

use std::fmt;

use llama_diffusion::diffusion::Corrections;
use llama_diffusion::{Result, Token};
use llama_diffusion_flags::corrections;

/// How many accepted tokens later steps replaced, in which steps, and the last of them.
pub struct CorrectionLine<'a> {
    corrections: &'a Corrections,
    /// The texts of the last one.
    last: Option<[String; 2]>,
}

impl<'a> CorrectionLine<'a> {
    /// `piece` returns the bytes of a token, none for a control token.
    ///
    /// # Errors
    /// Those of `piece`.
    pub fn new(
        corrections: &'a Corrections,
        piece: &dyn Fn(Token) -> Result<Vec<u8>>,
    ) -> Result<Self> {
        let text = |token: Token| -> Result<String> {
            let bytes = piece(token)?;
            Ok(match bytes.is_empty() {
                true => format!("token {token}"),
                false => format!("{:?}", String::from_utf8_lossy(&bytes)),
            })
        };
        let last = corrections.last.as_ref();
        let last = last.map(|last| Ok([text(last.from)?, text(last.to)?]));
        Ok(Self {
            corrections,
            last: last.transpose()?,
        })
    }
}

impl fmt::Display for CorrectionLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.corrections;
        let (Some(last), Some([from, to])) = (all.last, &self.last) else {
            return f.write_str("corrections: none");
        };
        let (total, positions) = (all.total(), all.positions);
        let plural = if positions == 1 { "" } else { "s" };
        write!(
            f,
            "corrections: {total} at {positions} position{plural}; by step: {}, last: {}",
            corrections::by_step(all),
            corrections::place(&last, from, to)
        )
    }
}

#[cfg(test)]
mod tests {
    use llama_diffusion::diffusion::Correction;

    use super::*;

    fn line(corrections: &Corrections) -> String {
        let piece = |token: Token| match token {
            0 => Ok(Vec::new()),
            token => Ok(format!(" t{token}\n").into_bytes()),
        };
        CorrectionLine::new(corrections, &piece)
            .unwrap()
            .to_string()
    }

    #[test]
    fn steps_without_corrections_are_left_out() {
        let corrections = Corrections {
            positions: 2,
            by_step: vec![0, 2, 0, 1],
            last: Some(Correction {
                block: 1,
                position: 6,
                step: 3,
                from: 5,
                to: 0,
            }),
        };
        assert_eq!(
            line(&corrections),
            "corrections: 3 at 2 positions; by step: 2: 2, 4: 1, last: canvas 2, step 4, position 7, \
             \" t5\\n\" to token 0"
        );
        assert_eq!(line(&Corrections::default()), "corrections: none");
    }
}
