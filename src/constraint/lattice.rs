//! A step's distribution, projected onto the canvases of a language.

use super::error::{ConstraintError, Result};
use super::groups::GroupTables;
use super::language::CanvasLanguage;
use super::passes::Passes;
use super::tables::{ClassTables, Projection};

/// Buffers of [`CanvasLanguage::project`], kept between steps.
#[derive(Debug, Default)]
pub struct Work {
    groups: GroupTables,
    passes: Passes,
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
        let best = self.best_path(tables, work)?;
        let Work { groups, passes } = work;
        let log_z = passes
            .sum_forward(self, groups)
            .ok_or(ConstraintError::Fixed)?;
        let (sampled, remainder) = passes.sample(self, tables, groups, uniforms);
        let mut projection = Projection {
            best,
            sampled,
            remainder,
            log_multipliers: vec![0.0; self.len() * tables.classes],
            tail: vec![0.0; self.len()],
            log_z,
        };
        passes.posterior(self, groups, &mut projection);
        Ok(projection)
    }

    /// The most likely canvas, as in [`Projection::best`].
    ///
    /// # Errors
    /// As [`project`](Self::project).
    ///
    /// # Panics
    /// If the tables are not of this canvas.
    pub fn best_path(&self, tables: &ClassTables, work: &mut Work) -> Result<Vec<Option<u16>>> {
        tables.check(self.automaton().class_count(), self.len())?;
        let Work { groups, passes } = work;
        groups.fill(tables, &self.automaton().groups, self.len());
        passes.score(self, tables, groups);
        let path = passes.best_path(self, tables, groups);
        path.ok_or(ConstraintError::Fixed)
    }
}
