//! Draws of a whole canvas from the distribution given a language.

use std::cell::OnceCell;

use super::{ComputedStep, Planes, put, with_buffer};
use crate::constraint::rows::{Classes, Given, Row, RowTable};
use crate::constraint::{ClassTables, Work};
use crate::diffusion::draw::Choice;
use crate::diffusion::{ConstrainAt, DrawRule, Steering, Token, refused};
use crate::error::Result;
use crate::ggml::kernels::WEIGHT_SCALE;
use crate::model::graph::DrawPlane;
use crate::parallel;

impl ComputedStep<'_> {
    /// Replaces the planes of the language's positions, the first of the canvas, by what they are given
    /// the language.
    pub(super) fn follow(
        &self,
        steering: &Steering<'_>,
        positions: &mut [(usize, Planes)],
        work: &mut Work,
    ) -> Result<()> {
        let automaton = steering.language.automaton();
        let classes: &(dyn Classes + Sync) = automaton;
        let rows = parallel::map(positions.iter(), self.threads, |(position, planes)| {
            self.table(*position, planes, classes)
        });
        let rows: Vec<RowTable> = rows.into_iter().collect::<Result<_>>()?;
        let tables = ClassTables::from_rows(classes.count(), rows.iter());
        if steering.at == ConstrainAt::Commit {
            let best = steering
                .language
                .best_path(&tables, work)
                .map_err(refused)?;
            for (((_, planes), table), class) in positions.iter_mut().zip(&rows).zip(best) {
                planes[DrawPlane::Argmax as usize] = table.best_of(class) as f32;
            }
            return Ok(());
        }
        let zeros;
        let uniforms = match self.input.rule {
            DrawRule::Inverse { uniforms, .. } => &uniforms[..positions.len()],
            DrawRule::Greedy | DrawRule::Gumbel { .. } => {
                zeros = vec![0.0; positions.len()];
                &zeros[..]
            }
        };
        let projection = steering.language.project(&tables, uniforms, work);
        let projection = projection.map_err(refused)?;
        let items = positions.iter_mut().zip(&rows);
        let items: Vec<_> = items.filter(|((p, _), _)| self.input.free[*p]).collect();
        let done = parallel::map(items, self.threads, |((position, planes), table)| {
            let given = Given::at(&projection, *position, WEIGHT_SCALE, self.least());
            self.project(*position, planes, table, classes, &given)
        });
        done.into_iter().collect()
    }

    /// The classes of a position's distribution.
    fn table(&self, position: usize, planes: &Planes, classes: &dyn Classes) -> Result<RowTable> {
        if !self.input.free[position] {
            return Ok(RowTable::certain(classes, self.input.canvas[position]));
        }
        self.with_row(position, planes, |row| Ok(RowTable::new(row, classes)))
    }

    fn project(
        &self,
        position: usize,
        planes: &mut Planes,
        table: &RowTable,
        classes: &dyn Classes,
        given: &Given<'_>,
    ) -> Result<()> {
        let before = *planes;
        self.with_row(position, &before, |row| {
            let choice = table.project(row, classes, given);
            let drawn = Choice {
                argmax: choice.argmax,
                sampled: choice.sampled,
                entropy: choice.entropy,
                probability: choice.probability,
                margin: choice.margin,
            };
            put(&drawn, planes);
            self.write_weights(position, row.weights, &choice.spread, planes)
        })
    }

    /// Lends the weights of a position, with their exact logarithms.
    fn with_row<T>(
        &self,
        position: usize,
        planes: &Planes,
        work: impl FnOnce(&mut Row<'_>) -> Result<T>,
    ) -> Result<T> {
        let first = planes[DrawPlane::Argmax as usize] as Token;
        // Few rows need them.
        let exact = OnceCell::new();
        let load = || -> Result<Vec<f32>> {
            let mut weights = Vec::new();
            self.read_weights(position, &mut weights)?;
            if self.input.average > 0.0 {
                // Averages have no logits of their own.
                return Ok(weights.iter().map(|w| w.ln()).collect());
            }
            let top = weights[first as usize].ln();
            let mut scores = self.read_scores(position)?;
            let greatest = scores[first as usize];
            for (token, score) in scores.iter_mut().enumerate() {
                *score = match self.input.allowed.contains(position, token as Token) {
                    true => *score - greatest + top,
                    false => f32::NEG_INFINITY,
                };
            }
            Ok(scores)
        };
        // A device that fails gives NaN, which the lattice rejects.
        let log = |token: Token| match exact.get_or_init(|| load().ok()) {
            Some(logs) => logs[token as usize],
            None => f32::NAN,
        };
        with_buffer(|weights| {
            self.read_weights(position, weights)?;
            work(&mut Row {
                weights,
                exact: &log,
            })
        })
    }
}
