//! Draws of a masked canvas from the distribution given a language.

use crate::constraint::rows::{Classes, Given, Row, RowTable};
use crate::constraint::{ClassTables, Work};
use crate::diffusion::draw::{Choice, DrawSampler};
use crate::diffusion::{DrawRule, Draws, Filter, Steering, StepInput, Token, refused};
use crate::error::Result;
use crate::parallel;

/// How much less likely tokens are, in nats, that a filter leaves out: only a text that the language
/// forces has them.
const LEFT_OUT: f32 = 60.0;

/// Draws at the free positions. `rows` are the logits of all positions whose token is not final.
pub(super) fn draw(
    mut rows: Vec<(usize, &mut [f32])>,
    steering: &Steering<'_>,
    input: &StepInput<'_>,
    threads: usize,
    draws: &mut Draws,
) -> Result<()> {
    let classes: &(dyn Classes + Sync) = steering.language.automaton();
    let uniforms = match input.rule {
        DrawRule::Inverse { uniforms, .. } => uniforms.to_vec(),
        DrawRule::Greedy | DrawRule::Gumbel { .. } => vec![0.0; input.canvas.len()],
    };
    let items: Vec<_> = rows.iter_mut().collect();
    let tables = parallel::map(items, threads, |(position, logits)| {
        prepare(logits, *position, input);
        (
            *position,
            with_row(logits, |row| RowTable::new(row, classes)).0,
        )
    });
    let certain = |token: &Token| RowTable::certain(classes, *token);
    let mut canvas: Vec<RowTable> = input.canvas.iter().map(certain).collect();
    for (position, table) in tables {
        canvas[position] = table;
    }
    let tables = ClassTables::from_rows(classes.count(), canvas.iter());
    let projection = steering
        .language
        .project(&tables, &uniforms, &mut Work::default())
        .map_err(refused)?;
    let is_free = |(position, _): &(usize, &mut [f32])| input.free[*position];
    let free: Vec<_> = rows.into_iter().filter(is_free).collect();
    let choices = parallel::map(free, threads, |(position, logits)| {
        let given = Given::at(&projection, position, 1.0, 0.0);
        let project = |row: &mut Row<'_>| canvas[position].project(row, classes, &given);
        let (choice, weights) = with_row(logits, project);
        let total = choice.spread.total;
        let sampled = match input.rule {
            DrawRule::Greedy => choice.argmax,
            DrawRule::Inverse { .. } | DrawRule::Gumbel { .. } => choice.sampled,
        };
        let drawn = Choice {
            argmax: choice.argmax,
            sampled,
            entropy: choice.entropy,
            probability: (f64::from(weights[sampled as usize]) / total) as f32,
            margin: choice.margin,
        };
        (position, drawn)
    });
    for (position, choice) in choices {
        draws.set(position, &choice);
    }
    Ok(())
}

/// Divides logits by the temperature, and lowers those of tokens that do not take part.
fn prepare(logits: &mut [f32], position: usize, input: &StepInput<'_>) {
    for (token, logit) in logits.iter_mut().enumerate() {
        // A vocabulary's ids are tokens.
        if !input.allowed.contains(position, token as Token) {
            *logit = f32::NEG_INFINITY;
        }
    }
    let temperature = match input.rule {
        DrawRule::Inverse { temperature, .. } => temperature,
        DrawRule::Greedy | DrawRule::Gumbel { .. } => 1.0,
    };
    let passing = match input.filter == Filter::NONE {
        true => None,
        false => Some(DrawSampler::default().passing(logits, input.filter)),
    };
    logits.iter_mut().for_each(|logit| *logit /= temperature);
    if let Some(passing) = passing {
        let kept: Vec<(usize, f32)> = passing
            .into_iter()
            .map(|token| (token as usize, logits[token as usize]))
            .collect();
        logits.iter_mut().for_each(|logit| *logit -= LEFT_OUT);
        for (token, logit) in kept {
            logits[token] = logit;
        }
    }
}

/// Lends a row as weights.
fn with_row<T>(logits: &[f32], work: impl FnOnce(&mut Row<'_>) -> T) -> (T, Vec<f32>) {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<f32> = logits.iter().map(|logit| (logit - top).exp()).collect();
    let mut row = Row {
        weights: &mut weights,
        exact: &|_, token| logits[token as usize] - top,
    };
    let result = work(&mut row);
    (result, weights)
}
