// What speedscope makes of a profile: the application as npm ships it takes FILE in, as it
// does when it is started from a command line, and saves it in its own format to stdout.
//
//   node speedscope.mjs DASHBOARDS_FOLDER FILE
import { readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

const [folder, file] = process.argv.slice(2);
const require = createRequire(join(folder, 'package.json'));
const { JSDOM, VirtualConsole } = require('jsdom');

// There is no screen. What the application asks of WebGL is answered so that it goes on; it draws nothing then.
const answers = { checkFramebufferStatus: 'FRAMEBUFFER_COMPLETE', getParameter: 1, getExtension: null };
const webgl = new Proxy({}, {
  get(own, name) {
    if (name in own) return own[name];
    if (/^[A-Z]/.test(String(name))) return name; // a constant
    return () => (name in answers ? answers[name] : {});
  },
});

async function until(condition, what) {
  for (const end = Date.now() + 20000; Date.now() < end; await new Promise((go) => setTimeout(go, 10)))
    if (condition()) return;
  throw new Error(`not within 20 s: ${what}`);
}

const log = [];
const browser = new VirtualConsole();
browser.on('log', (text) => log.push(text));
const { window } = new JSDOM('<!DOCTYPE html><body></body>', {
  url: 'https://localhost/#localProfilePath=none&view=sandwich', // a view of text
  runScripts: 'outside-only',
  pretendToBeVisual: true,
  virtualConsole: browser,
});
let saved;
Object.assign(window, { TextEncoder, TextDecoder, matchMedia: () => ({ matches: false, addListener() {} }) });
Object.assign(window.URL, { createObjectURL: (blob) => ((saved = blob), 'blob:') });
window.HTMLCanvasElement.prototype.getContext = () => webgl;
window.HTMLAnchorElement.prototype.click = () => {};

const application = join(dirname(require.resolve('speedscope/package.json')), 'dist/release');
const script = readdirSync(application).find((name) => /^speedscope-.*\.js$/.test(name));
window.eval(readFileSync(join(application, script), 'utf8'));
await until(() => window.speedscope, 'a started application');
window.speedscope.loadFileFromBase64('profile.pb.gz', readFileSync(file).toString('base64'));
await until(() => window.document.body.textContent.includes('Symbol Name'), `a table; it says: ${log.join('; ')}`);
window.dispatchEvent(new window.KeyboardEvent('keydown', { key: 's', ctrlKey: true }));
await until(() => saved, 'a saved profile');
const reader = new window.FileReader();
reader.onload = () => process.stdout.write(reader.result, () => process.exit(0));
reader.readAsText(saved);
