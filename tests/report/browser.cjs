// Opens a page in headless Chromium and prints what it drew and what it complained of.
//   CHROME=/path/to/chrome NODE_PATH=…/node_modules node browser.cjs page.html light|dark|print
const puppeteer = require("puppeteer-core");

(async () => {
  const [, , page, look] = process.argv;
  const args = ["--no-sandbox", "--disable-gpu", "--single-process", "--no-zygote", "--headless=shell"];
  const browser = await puppeteer.launch({executablePath: process.env.CHROME, args, headless: "shell"});
  const tab = await browser.newPage();
  const said = [], asked = [];
  tab.on("console", message => said.push(message.text()));
  tab.on("pageerror", error => said.push(String(error)));
  tab.on("dialog", async dialog => { said.push("dialog"); await dialog.dismiss(); });
  tab.on("request", request => { if (!/^(file|data|blob):/.test(request.url())) asked.push(request.url()); });
  if (look === "print") await tab.emulateMediaType("print");
  else await tab.emulateMediaFeatures([{name: "prefers-color-scheme", value: look}]);
  await tab.goto("file://" + page, {waitUntil: "load"});
  await new Promise(resolve => setTimeout(resolve, 1000));
  const found = await tab.evaluate(() => ({
    drawn: [...document.querySelectorAll(".js-plotly-plot")].filter(plot => plot.querySelector("svg.main-svg")).length,
    background: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  }));
  await tab.keyboard.press("Tab");
  found.first = await tab.evaluate(() => document.activeElement.textContent);
  console.log(JSON.stringify({...found, said, asked}));
  await browser.close();
})().catch(error => { console.error(error); process.exit(1); });
