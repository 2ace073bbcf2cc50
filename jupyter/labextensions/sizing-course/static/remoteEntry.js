/* A list above each notebook with tagged cells: all cells, core and depth, or the core alone.

   Cells are tagged `core`, `depth` or `appendix`; a cell without such a tag is core. What outputs
   leave unnamed gets a name for a screen reader. Written as a module-federation container by hand,
   so that it needs no build. */
(() => {
  const LEVELS = { 'all cells': [], 'core and depth': ['appendix'], core: ['depth', 'appendix'] };
  let shared;

  const load = async name => {
    const versions = Object.values(shared[name]);
    return (await versions[0].get())();
  };

  const tags = cell => cell.model.getMetadata('tags') ?? [];

  const hide = (notebook, level) => {
    for (const cell of notebook.widgets) {
      const hidden = tags(cell).some(tag => LEVELS[level].includes(tag));
      if (hidden || cell.node.dataset.sizingHidden) cell.setHidden(hidden);
      if (hidden) cell.node.dataset.sizingHidden = 'yes';
      else delete cell.node.dataset.sizingHidden;
    }
  };

  /* A figure's text alternative is the caption in the cell below it; JupyterLab gives an image
     none. A slider is named by its label. A table's empty corner heads nothing. */
  const describe = notebook => {
    for (const image of notebook.node.querySelectorAll('.jp-RenderedImage img:not([alt])')) {
      const below = image.closest('.jp-Cell').nextElementSibling;
      const caption = below?.querySelector('.jp-MarkdownOutput p')?.textContent.trim();
      image.alt = caption || 'A figure; the text around it says what it shows.';
    }
    for (const slider of notebook.node.querySelectorAll('[role=slider]:not([aria-label])')) {
      slider.ariaLabel = slider.closest('.widget-slider')
        ?.querySelector('.widget-label')?.textContent ?? '';
    }
    const corners = '.jp-OutputArea-output th:empty, .jp-MarkdownOutput th:empty';
    for (const corner of notebook.node.querySelectorAll(corners)) {
      corner.replaceWith(document.createElement('td'));
    }
  };

  const watch = notebook => {
    let waiting;
    const later = () => {
      clearTimeout(waiting);
      waiting = setTimeout(describe, 200, notebook);
    };
    const observer = new MutationObserver(later);
    observer.observe(notebook.node, { childList: true, subtree: true });
    notebook.disposed.connect(() => observer.disconnect());
    later();
  };

  const list = (panel, level) => {
    const select = document.createElement('select');
    select.setAttribute('aria-label', 'Cells to show');
    select.title = 'Cells to show';
    select.className = 'sizing-parts';
    for (const name of Object.keys(LEVELS)) select.add(new Option(`Show: ${name}`, name));
    select.value = level;
    const apply = () => hide(panel.content, select.value);
    select.addEventListener('change', apply);
    select.addEventListener('keydown', event => event.stopPropagation());
    const ready = () => {
      const some = panel.content.widgets.some(cell =>
        tags(cell).some(tag => LEVELS.core.includes(tag)));
      select.style.display = some ? '' : 'none';
      apply();
    };
    panel.context.ready.then(() => {
      ready();
      panel.content.model?.cells.changed.connect(() => setTimeout(ready));
    });
    return select;
  };

  const activate = (Widget, app, settings) => {
    const loaded = settings.load('sizing-course:parts');
    app.docRegistry.addWidgetExtension('Notebook', {
      createNew: panel => {
        watch(panel.content);
        loaded.then(all => {
          const level = all.get('show').composite;
          const widget = new Widget({ node: list(panel, level in LEVELS ? level : 'all cells') });
          panel.toolbar.insertBefore('spacer', 'sizing-parts', widget);
        });
      }
    });
  };

  const container = {
    init: scope => { shared = scope; },
    get: async () => {
      const { ISettingRegistry } = await load('@jupyterlab/settingregistry');
      const { Widget } = await load('@lumino/widgets');
      const plugin = {
        id: 'sizing-course:parts',
        autoStart: true,
        requires: [ISettingRegistry],
        activate: (app, settings) => activate(Widget, app, settings)
      };
      return () => ({ __esModule: true, default: plugin });
    }
  };
  (window._JUPYTERLAB ??= {})['sizing-course'] = container;
})();
