// What the generator and the linter need to know of a PromQL expression, by
// Prometheus' own grammar.
import { parser } from '@prometheus-io/lezer-promql';

export interface Selector {
  metric: string;
  matchers: string[];
  /** The function right around the selector's range, such as `rate`; else undefined. */
  rangeFunction: string | undefined;
  /** The text between the brackets of a range selector; else undefined. */
  range: string | undefined;
}

export interface Expression {
  errors: string[];
  selectors: Selector[];
}

// Grafana's variables stand where the grammar wants a duration; a duration of
// the same length keeps positions equal to those in the original text.
const kInterval = /\$__(?:rate_interval|interval|range)\b/g;

function withDurations(expr: string): string {
  return expr.replace(kInterval, (variable) => '9'.repeat(variable.length - 1) + 's');
}

/** Parses one expression. Syntax errors are listed, not thrown. */
export function parseExpression(expr: string): Expression {
  const text = withDurations(expr);
  const tree = parser.parse(text);
  const result: Expression = { errors: [], selectors: [] };
  tree.iterate({
    enter(ref) {
      if (ref.type.isError) {
        const near = expr.slice(Math.max(0, ref.from - 10), ref.from + 20);
        result.errors.push(`syntax error at column ${ref.from + 1}, near "${near}"`);
      }
      if (ref.name !== 'VectorSelector') return;
      const selector: Selector = { metric: '', matchers: [], rangeFunction: undefined, range: undefined };
      const node = ref.node;
      const identifier = node.getChild('Identifier');
      if (identifier) selector.metric = expr.slice(identifier.from, identifier.to);
      const matchers = node.getChild('LabelMatchers');
      for (let child = matchers?.firstChild; child; child = child.nextSibling)
        if (/LabelMatcher/.test(child.name)) selector.matchers.push(expr.slice(child.from, child.to).replace(/\s/g, ''));
      const parent = node.parent;
      if (parent?.name === 'MatrixSelector') {
        selector.range = expr.slice(node.to, parent.to).replace(/^\s*\[|\]\s*$/g, '');
        for (let up = parent.parent; up; up = up.parent)
          if (up.name === 'FunctionCall') {
            selector.rangeFunction = expr.slice(up.from, up.firstChild!.to);
            break;
          }
      }
      result.selectors.push(selector);
    },
  });
  return result;
}

/** Names of all series an expression selects. */
export function seriesOf(expr: string): string[] {
  return [...new Set(parseExpression(expr).selectors.map((selector) => selector.metric))];
}
