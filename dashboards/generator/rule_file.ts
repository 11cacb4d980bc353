// The expressions of a Prometheus rule file. Only the shape that our own files
// have is read (one key a line, `expr:` plain or as a block); promtool checks
// the rest, and a rule without an expression is an error here.
import { RuleExpression } from './lint.js';

export interface RuleFile {
  rules: RuleExpression[];
  recorded: string[];
}

const kRule = /^\s*- (alert|record): (\S+)\s*$/;
const kExpr = /^(\s*)expr: (.*)$/;

export function parseRules(text: string): RuleFile {
  const file: RuleFile = { rules: [], recorded: [] };
  const lines = text.split('\n');
  let rule = '';
  for (let i = 0; i < lines.length; ++i) {
    const start = kRule.exec(lines[i]!);
    if (start) {
      if (rule) throw new Error(`rule ${rule} has no expr`);
      rule = start[2]!;
      if (start[1] === 'record') file.recorded.push(rule);
      continue;
    }
    const expr = kExpr.exec(lines[i]!);
    if (!expr) continue;
    if (!rule) throw new Error(`line ${i + 1}: an expr without a rule`);
    let value = expr[2]!.trim();
    if (/^[|>]-?$/.test(value)) {
      const block: string[] = [];
      while (i + 1 < lines.length && lines[i + 1]!.search(/\S/) > expr[1]!.length) block.push(lines[++i]!.trim());
      value = block.join('\n');
    }
    file.rules.push({ rule, expr: value });
    rule = '';
  }
  if (rule) throw new Error(`rule ${rule} has no expr`);
  if (file.rules.length === 0) throw new Error('no rules');
  return file;
}
