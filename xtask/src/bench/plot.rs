//! CPU per request as a picture for the README: each row relative to the best peer in it.
//!
//! A logarithmic axis, one line a row, baton as a disc with its figure beside it, peers as outlines. The
//! colours are readable on white and on black, whichever the reader's page has.

use std::fmt::Write;

use super::column::Column;
use super::measure::{Results, RowResults};
use super::table::median;

const WIDTH: f64 = 840.0;
/// Where the axis begins and ends.
const LEFT: f64 = 200.0;
const RIGHT: f64 = 780.0;
/// Of the first row, and from row to row.
const TOP: f64 = 84.0;
const STEP: f64 = 26.0;
/// Ends of the axis; what is beyond is drawn at the end.
const LEAST: f64 = 0.25;
const MOST: f64 = 16.0;
const TICKS: [f64; 7] = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0];

const STYLE: &str = "
text { font: 13px system-ui, sans-serif; fill: #57606a; }
.own { fill: #0969da; } .own-text { fill: #0969da; font-weight: 600; }
.peer { fill: none; stroke: #6e7781; stroke-width: 1.6; }
.grid { stroke: #8c959f; stroke-opacity: .35; } .best { stroke: #6e7781; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
text { fill: #9198a1; } .own { fill: #4493f8; } .own-text { fill: #4493f8; } .peer, .best { stroke: #9198a1; }
}";

/// A row of the picture: its name, and what each proxy takes relative to the best peer.
struct Line<'a> {
    name: &'a str,
    ratios: Vec<(&'static str, f64)>,
}

impl<'a> Line<'a> {
    /// `None` where baton or every peer is void, or nothing is asked.
    fn of(results: &Results, row: &'a RowResults) -> Option<Self> {
        if !Column::of(row.work).starts_with(&[Column::Cpu]) {
            return None;
        }
        let lines = results.proxies.iter().zip(&row.samples);
        let taken: Vec<(&'static str, f64)> = lines
            .filter_map(|((name, _), samples)| Some((*name, median(samples, Column::Cpu)?.middle)))
            .collect();
        let peers = taken.iter().filter(|(name, _)| *name != "baton");
        let best = peers.map(|(_, cpu)| *cpu).min_by(f64::total_cmp)?;
        let ratios: Vec<_> = taken.iter().map(|(name, cpu)| (*name, cpu / best)).collect();
        ratios.iter().any(|(name, _)| *name == "baton").then_some(Line { name: &row.name, ratios })
    }

    fn own(&self) -> f64 {
        self.ratios.iter().find(|(name, _)| *name == "baton").map_or(1.0, |(_, ratio)| *ratio)
    }
}

/// `None` where there is nothing to draw.
pub fn svg(results: &Results) -> Option<String> {
    let lines: Vec<Line<'_>> =
        results.rows.iter().filter_map(|row| Line::of(results, row)).collect();
    if lines.is_empty() {
        return None;
    }
    let bottom = TOP + STEP * lines.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {:.0}\" role=\"img\" \
         aria-labelledby=\"title text\">\n<title id=\"title\">CPU time per request, relative to the best \
         peer</title>\n<desc id=\"text\">{}</desc>\n<style>{STYLE}\n</style>\n",
        bottom + 12.0,
        described(&lines)
    );
    legend(&mut svg, results);
    axis(&mut svg, bottom);
    for (number, line) in lines.iter().enumerate() {
        draw(&mut svg, line, TOP + STEP * number as f64);
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// The same in words, for who does not see it.
fn described(lines: &[Line<'_>]) -> String {
    let each: Vec<String> =
        lines.iter().map(|line| format!("{}: baton {:.2}", line.name, line.own())).collect();
    format!("The best of the other proxies is 1, less is better. {}.", each.join("; "))
}

fn legend(svg: &mut String, results: &Results) {
    let mut x = LEFT;
    for (name, _) in &results.proxies {
        mark(svg, name, x, 18.0);
        let _ = writeln!(svg, "<text x=\"{:.0}\" y=\"22\">{name}</text>", x + 11.0);
        x += 90.0;
    }
    let _ = writeln!(svg, "<text x=\"{x:.0}\" y=\"22\">less is better</text>");
}

fn axis(svg: &mut String, bottom: f64) {
    for tick in TICKS {
        let (x, class) = (across(tick), if tick == 1.0 { "best" } else { "grid" });
        let _ = writeln!(
            svg,
            "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.0}\" y2=\"{bottom:.0}\"/>\
             <text x=\"{x:.1}\" y=\"52\" text-anchor=\"middle\">{}</text>",
            TOP - 24.0,
            if tick == 1.0 { "best peer".to_owned() } else { format!("{tick}×") }
        );
    }
}

fn draw(svg: &mut String, line: &Line<'_>, y: f64) {
    let _ = writeln!(
        svg,
        "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>",
        LEFT - 12.0,
        y + 4.5,
        line.name
    );
    // Ours last, above the others.
    for (name, ratio) in line.ratios.iter().rev() {
        mark(svg, name, across(*ratio), y);
    }
    let _ = writeln!(
        svg,
        "<text class=\"own-text\" x=\"{:.0}\" y=\"{:.0}\">{:.2}</text>",
        RIGHT + 16.0,
        y + 4.5,
        line.own()
    );
}

fn across(ratio: f64) -> f64 {
    let share = (ratio.clamp(LEAST, MOST) / LEAST).log2() / (MOST / LEAST).log2();
    LEFT + share * (RIGHT - LEFT)
}

/// A shape for each proxy, as colours alone tell nothing to some.
fn mark(svg: &mut String, name: &str, x: f64, y: f64) {
    let path = match name {
        "baton" => {
            let _ = writeln!(svg, "<circle class=\"own\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\"/>");
            return;
        }
        "nginx" => "m-5-5h10v10h-10z",
        "haproxy" => "m0-6l6 10.5h-12z",
        "h2o" => "m0-6.5l6.5 6.5l-6.5 6.5l-6.5-6.5z",
        _ => "m-5-5l10 10m0-10l-10 10",
    };
    let _ = writeln!(svg, "<path class=\"peer\" d=\"M{x:.1} {y:.1}{path}\"/>");
}

#[cfg(test)]
mod tests {
    use super::super::column::Figures;
    use super::super::measure::Sample;
    use super::super::row::Work;
    use super::*;

    fn results(samples: [Sample; 3]) -> Results {
        let proxies = ["baton", "nginx", "h2o"].map(|name| (name, String::new())).to_vec();
        let mut results = Results { rounds: 1, seconds: 1, proxies, rows: Vec::new() };
        let work = Work::Resumed { clients: 1 };
        results.keep("resumed".to_owned(), work, samples.map(|sample| vec![sample]).to_vec());
        results
    }

    fn cpu(micros: f64) -> Sample {
        Ok(Figures::default().with(Column::Cpu, micros))
    }

    #[test]
    fn a_row_is_relative_to_its_best_peer() {
        let svg = svg(&results([cpu(30.0), cpu(40.0), cpu(60.0)])).expect("a picture");
        assert!(svg.contains("resumed: baton 0.75."), "{svg}");
        assert!(svg.contains(&format!("cx=\"{:.1}\"", across(0.75))), "{svg}");
    }

    #[test]
    fn void_peers_are_not_drawn_and_nothing_is_drawn_without_baton() {
        let void = || Err("failed".to_owned());
        let some = svg(&results([cpu(30.0), void(), cpu(60.0)])).expect("a picture");
        assert!(some.contains("resumed: baton 0.50."), "{some}");
        assert_eq!(svg(&results([void(), cpu(40.0), cpu(60.0)])), None);
        assert_eq!(svg(&results([cpu(30.0), void(), void()])), None);
    }

    #[test]
    fn ends_of_the_axis_hold_what_is_beyond() {
        assert_eq!((across(0.01), across(1e6)), (LEFT, RIGHT));
    }
}
