//! A step's distribution, projected onto the canvases of a language.

use super::best::BestPass;
use super::error::{ConstraintError, Result};
use super::groups::GroupTables;
use super::language::CanvasLanguage;
use super::number::Number;
use super::scaled::Scaled;
use super::sums::SumPass;
use super::tables::{ClassTables, Projection};
use super::trellis::Trellis;

/// Buffers of [`CanvasLanguage::project`], kept between steps.
#[derive(Debug, Default)]
pub struct Work {
    groups: GroupTables,
    best: BestPass,
    sums: SumPass<f64>,
    scaled: SumPass<Scaled>,
}

impl CanvasLanguage<'_> {
    /// Projects a step's distribution onto the language. `uniforms` has a number in [0, 1) for each position.
    ///
    /// # Errors
    /// [`ConstraintError::NotFinite`]: a table holds what is not a number. [`ConstraintError::Fixed`]: every
    /// canvas of the language has a token that is not allowed at its position.
    ///
    /// # Panics
    /// If the tables or the uniform numbers are not of this canvas.
    pub fn project(
        &self,
        tables: &ClassTables,
        uniforms: &[f32],
        work: &mut Work,
    ) -> Result<Projection> {
        assert_eq!(uniforms.len(), self.len(), "uniform numbers and positions");
        let trellis = Trellis::new(self);
        let best = self.best(&trellis, tables, work)?;
        let sums = Sums {
            trellis,
            tables,
            uniforms,
            best,
        };
        // From every state on, probabilities sum to at most 1. So all that f64 loses, 2^-1022 at each of some
        // 10^8 additions, is nothing beside a language of e^-600, unless the tables hold more than probabilities.
        let z = work.sums.forward(&sums.trellis, work.groups.sums());
        if z.is_finite() && z.ln() > work.groups.log_excess() - 600.0 {
            return Ok(sums.finish(&mut work.sums, work.groups.sums(), z));
        }
        let weights = work.groups.scaled(tables, &self.automaton().groups);
        let z = work.scaled.forward(&sums.trellis, weights);
        if z.is_zero() {
            return Err(ConstraintError::Fixed);
        }
        Ok(sums.finish(&mut work.scaled, weights, z))
    }

    /// The most likely canvas, as in [`Projection::best`].
    ///
    /// # Errors
    /// As [`project`](Self::project).
    ///
    /// # Panics
    /// If the tables are not of this canvas.
    pub fn best_path(&self, tables: &ClassTables, work: &mut Work) -> Result<Vec<Option<u16>>> {
        self.best(&Trellis::new(self), tables, work)
    }

    fn best(
        &self,
        trellis: &Trellis,
        tables: &ClassTables,
        work: &mut Work,
    ) -> Result<Vec<Option<u16>>> {
        tables.check(self.automaton().class_count(), self.len())?;
        let Work { groups, best, .. } = work;
        groups.fill(tables, &self.automaton().groups, self.len());
        best.path(trellis, tables, groups)
            .ok_or(ConstraintError::Fixed)
    }
}

/// What the sums need beside their arithmetic.
struct Sums<'a> {
    trellis: Trellis<'a>,
    tables: &'a ClassTables,
    uniforms: &'a [f32],
    best: Vec<Option<u16>>,
}

impl Sums<'_> {
    /// The projection, after the forward pass with the result `z`.
    fn finish<N: Number>(self, pass: &mut SumPass<N>, weights: &[N], z: N) -> Projection {
        let (sampled, remainder) = pass.sample(&self.trellis, self.tables, weights, self.uniforms);
        let mut projection = Projection {
            best: self.best,
            sampled,
            remainder,
            log_multipliers: vec![0.0; self.tables.log_sum.len()],
            tail: vec![0.0; self.uniforms.len()],
            log_z: z.ln(),
        };
        pass.posterior(&self.trellis, weights, z, &mut projection);
        projection
    }
}
