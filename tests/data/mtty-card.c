// SPDX-License-Identifier: GPL-2.0-only
/*
 * Makes mediated devices on a card: the kernel's sample mtty.c, unchanged, as the driver of a PCI
 * device. The sample makes them on a device of its own, on no bus; drivers of GPUs do as this one.
 */
#include <linux/mdev.h>
#include <linux/pci.h>

static int make_driver(void);
static void remove_driver(struct pci_driver *driver);
static struct pci_driver card_driver;

#define mdev_register_parent(...) make_driver()
#define mdev_unregister_parent(...) remove_driver(&card_driver)
#include "mtty.c"
#undef mdev_register_parent
#undef mdev_unregister_parent

static int card_probe(struct pci_dev *card, const struct pci_device_id *id)
{
	return mdev_register_parent(&mtty_dev.parent, &card->dev, &mtty_driver,
				    mtty_mdev_types, ARRAY_SIZE(mtty_mdev_types));
}

static void card_remove(struct pci_dev *card)
{
	mdev_unregister_parent(&mtty_dev.parent);
}

/* QEMU's qxl, of which there must be only one: the sample has one parent. */
static const struct pci_device_id card_ids[] = { { PCI_DEVICE(0x1b36, 0x0100) }, { } };

static struct pci_driver card_driver = {
	.name = MTTY_NAME,
	.id_table = card_ids,
	.probe = card_probe,
	.remove = card_remove,
};

static int make_driver(void)
{
	return pci_register_driver(&card_driver);
}

static void remove_driver(struct pci_driver *driver)
{
	pci_unregister_driver(driver);
}
